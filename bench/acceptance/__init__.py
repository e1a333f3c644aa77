"""scripts/acceptance: the claims about GPUs, checked on this machine, step by step."""
