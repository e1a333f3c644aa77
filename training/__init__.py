"""Training of the mini variant: anatomy -> masks and renders -> autoencoder -> flow -> card."""
