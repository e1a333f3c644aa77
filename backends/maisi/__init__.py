"""The Triton backend `maisi`: one request's way from a label mask to a volume."""

from __future__ import annotations

VERSION = "0.1.0"
