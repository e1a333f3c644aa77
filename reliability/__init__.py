"""What a server withstands: attacks, faults, hours of load, upgrades; docs/reliability.md."""
