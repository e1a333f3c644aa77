"""Numbers of things in sentences."""

from __future__ import annotations


def counted(number: int, singular: str, plural: str = "") -> str:
    """Return the number and the noun that agrees with it: `1 row`, `2 rows`."""
    return f"{number} {singular if number == 1 else plural or f'{singular}s'}"
