"""The command `maisi`: a module a command, with its options and what it does."""

from __future__ import annotations

from .entry import main as main
