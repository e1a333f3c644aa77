"""How the mini variant was trained: anatomy -> masks and renders -> autoencoder -> flow -> card."""
