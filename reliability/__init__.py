"""Test a server with attacks, faults, long load and upgrades; docs/explanation/reliability.md."""
