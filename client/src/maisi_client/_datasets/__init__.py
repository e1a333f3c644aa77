"""Plans, the tables they are read from, and the datasets made from them."""
