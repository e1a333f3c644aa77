"""Plans, the tables they come from, and the datasets that are made of them."""
