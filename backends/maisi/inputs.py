"""One input at a time: its shape, its range, and the sentence when it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InvalidRequest

Array = npt.NDArray[Any]
Inputs = Mapping[str, Array]
Variant = Mapping[str, Any]  # what its model configurations publish as the parameter `variant`


def values(inputs: Inputs, name: str, count: int) -> list[Any]:
    """Return the input's values, which must be `count` in one axis."""
    array = inputs[name]
    if array.shape != (count,):
        raise InvalidRequest(f"{name}: shape {list(array.shape)}, but {[count]} is allowed")
    return list(array.tolist())


def whole(inputs: Inputs, name: str, default: int, low: int, high: int) -> int:
    """Return the one whole number of an input, or `default`, which must lie in low..high."""
    value = int(values(inputs, name, 1)[0]) if name in inputs else int(default)
    if not low <= value <= high:
        raise InvalidRequest(f"{name}: {value} is outside what is allowed, {low} to {high}")
    return value


def number(inputs: Inputs, name: str, default: float, low: float, high: float) -> float:
    """Return the one number of an input, or `default`, which must lie in low..high."""
    value = shortest(values(inputs, name, 1)[0]) if name in inputs else float(default)
    if not low <= value <= high:
        raise InvalidRequest(f"{name}: {value:g} is outside what is allowed, {low:g} to {high:g}")
    return value


def interval(inputs: Inputs, name: str) -> tuple[float, float]:
    """Return the two ends of an input, within 0..1; all of it where there is none."""
    if name not in inputs:
        return 0.0, 1.0
    low, high = (shortest(end) for end in values(inputs, name, 2))
    # Written so that NaN fails.
    if not 0 <= low <= high <= 1:
        raise InvalidRequest(
            f"{name}: {low:g} to {high:g} is not what is allowed, low to high within 0 to 1"
        )
    return low, high


def flag(inputs: Inputs, name: str) -> bool:
    """Return the one truth of an input, false where there is none."""
    return bool(values(inputs, name, 1)[0]) if name in inputs else False


def text(inputs: Inputs, name: str, limit: int = 100) -> str:
    """Return the one text of an input, of at most `limit` characters in UTF-8."""
    value = values(inputs, name, 1)[0]
    try:
        said = value if isinstance(value, str) else bytes(value).decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{name}: {quote(repr(value[:40]))} is not text in UTF-8") from None
    if len(said) > limit:
        raise InvalidRequest(f"{name}: {len(said)} characters, and at most {limit} are allowed")
    return said


def written(name: str, sent: Array, limit: int) -> str:
    """Return the text that an earlier stage wrote: `sent` [N], at most `limit` bytes of UTF-8."""
    if sent.ndim != 1 or sent.dtype != np.uint8:
        raise InvalidRequest(f"{name}: {sent.dtype} {list(sent.shape)}, but uint8 [N] is allowed")
    if sent.size > limit:
        raise InvalidRequest(f"{name}: {sent.size} bytes, and at most {limit} are allowed")
    try:
        return sent.tobytes().decode()
    except UnicodeDecodeError:
        start = sent[:40].tobytes()
        raise InvalidRequest(f"{name}: {quote(repr(start))} is not text in UTF-8") from None


def shortest(value: float) -> float:
    """Return the number that was meant: 0.9 for the float32 that prints as 0.9."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))


def by(sides: Any) -> str:
    """Write three sides as `96 x 128 x 96`."""
    return " x ".join(f"{side:g}" if isinstance(side, float) else str(side) for side in sides)


def join(items: Any) -> str:
    """Write values as a list in a sentence."""
    return ", ".join(str(item) for item in items)


def quote(said: str) -> str:
    """Quote what came from outside, on one line."""
    return repr(said[:60])
