"""Attacks, faults, hours of load and upgrades of a server; docs/explanation/reliability.md."""
