"""How many servers a load needs: a simulation."""
