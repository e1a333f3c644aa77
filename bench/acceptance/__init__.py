"""Check the claims about GPUs on this machine, step by step: `scripts/acceptance`."""
