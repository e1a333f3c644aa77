"""Simulate how many servers a load needs; compare the simulation with three real servers."""
