"""Measure the service and write the results to the pages: `scripts/bench`, `scripts/acceptance`."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
