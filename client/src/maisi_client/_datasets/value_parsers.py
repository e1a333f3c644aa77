"""Parsers for the values of a plan, which are texts of a table or JSON values.

Each function raises ValueError. The text of the error is the expected value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

_WHOLE = re.compile(r"[+-]?\d{1,20}(\.0*)?", re.ASCII)  # spreadsheets may write 7 as 7.0
_POINTS = "with a decimal point, such as 0.5"


def text(value: Any) -> str:
    """Return a text; a number is converted to text."""
    if isinstance(value, str) or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return str(value)
    raise ValueError("a text")


def path(value: Any) -> str:
    """Return a path."""
    if not isinstance(value, str):
        raise ValueError("a path")
    return value


def names(value: Any) -> str | list[str | int]:
    """Return a text such as `liver,spleen`, or a list of names and ids."""
    if isinstance(value, list):
        if all(type(item) in (str, int) for item in value):
            return value
        raise ValueError("a list of names and ids")
    return text(value)


def sizes(value: Any) -> str | dict[str, float]:
    """Return a text such as `liver=0.5`, or an object of numbers."""
    if isinstance(value, dict):
        return {key: number(size) for key, size in value.items()}
    return text(value)


def truth(value: Any) -> bool:
    """Return the boolean for true or false, in any case, or for 1 or 0."""
    words = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    word = str(value).lower()
    if word not in words:
        raise ValueError("true or false")
    return words[word]


def integer(value: Any) -> int:
    """Return a whole number; 7.0 is accepted."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is int:
        return value
    if not isinstance(value, str) or not _WHOLE.fullmatch(value.strip()):
        raise ValueError("a whole number")
    return int(value.partition(".")[0])


def integers(value: Any) -> list[int]:
    """Return whole numbers from `1,2,3` or a list."""
    try:
        return [integer(item) for item in _items(value)]
    except ValueError:
        raise ValueError("whole numbers, such as 96,112,96") from None


def number(value: Any) -> float:
    """Return a finite number."""
    try:
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            result = float(value)
            if math.isfinite(result):
                return result
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"a number {_POINTS}")


def numbers(*counts: int) -> Callable[[Any], float | list[float]]:
    """Return a parser for numbers: `1,2,3`, a list, or one number. `counts` are allowed lengths."""

    def parse(value: Any) -> float | list[float]:
        items = [number(item) for item in _items(value)]
        if len(items) not in counts:
            raise ValueError(f"{' or '.join(map(str, counts))} numbers {_POINTS}")
        return items[0] if len(items) == 1 else items

    return parse


def _items(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return value.split(",") if isinstance(value, str) else [value]
