"""How many servers a load needs, by simulation, and the simulation beside three real servers."""
