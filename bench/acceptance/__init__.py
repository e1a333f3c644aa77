"""scripts/acceptance: what is claimed of GPUs, tried on the machine at hand, step by step."""
