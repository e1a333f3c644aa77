"""Timestamps for people; durations are not measured with them."""

from __future__ import annotations

from datetime import datetime, timezone


def timestamp() -> str:
    """Return the current date and time, ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
