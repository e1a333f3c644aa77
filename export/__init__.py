"""Export of MAISI checkpoints to a Triton model repository, compared with PyTorch."""
