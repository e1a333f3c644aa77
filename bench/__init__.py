"""Measurements: what the scripts bench, loadtest and solvers do, and the page they write."""
