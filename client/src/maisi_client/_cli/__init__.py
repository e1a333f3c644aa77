"""The command `maisi`: a module for each command, with its options and its function."""

from __future__ import annotations

from .entry import main as main
