"""Whether a dataset of synthetic volumes is any good: measures, verdicts and their report."""
