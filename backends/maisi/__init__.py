"""The Triton backend `maisi`: the stages of a request, from a label mask to a volume."""

from __future__ import annotations

VERSION = "0.1.0"  # then: scripts/write version
