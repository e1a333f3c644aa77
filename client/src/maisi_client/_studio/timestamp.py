"""When something was made, for people to read; nothing is measured by it."""

from __future__ import annotations

from datetime import datetime, timezone


def timestamp() -> str:
    """Return the time of the day, ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
