"""Measurements of the service, for `scripts/bench` and `scripts/acceptance`, and their pages."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
