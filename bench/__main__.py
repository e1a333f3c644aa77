"""Run a benchmark of the service: `python -m bench NAME` (docs/reference/benchmarks.md)."""

from __future__ import annotations

import sys

from bench import command

NAMES = (
    "compare",
    "load",
    "overlap",
    "overhead",
    "transfer",
    "decode",
    "memory",
    "solvers",
    "modes",
    "precision",
    "cost",
    "dataset",
    "fleet",
)

if __name__ == "__main__":
    sys.exit(command.run("bench", NAMES))
