"""Run a test of reliability: `python -m reliability NAME` (docs/explanation/reliability.md)."""

from __future__ import annotations

import sys

from bench import command

if __name__ == "__main__":
    sys.exit(command.run("reliability", ("chaos", "fuzz", "soak", "rehearsal")))
