"""From a MAISI checkpoint to a Triton model repository, with proof of equality."""
