"""`python -m bench NAME`: measurements of the service; docs/benchmarks.md has the results."""

from __future__ import annotations

import sys

from bench import command

NAMES = (
    "compare",
    "load",
    "overhead",
    "transfer",
    "decode",
    "memory",
    "solvers",
    "modes",
    "precision",
    "cost",
    "dataset",
)

if __name__ == "__main__":
    sys.exit(command.run("bench", NAMES))
