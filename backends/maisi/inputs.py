"""Read an input, and check its shape and range; each function may raise InvalidRequest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InvalidRequest

Array = npt.NDArray[Any]
Inputs = Mapping[str, Array]
Variant = Mapping[str, Any]  # the JSON in the parameter `variant` of its model configurations


def values(inputs: Inputs, name: str, count: int) -> list[Any]:
    """Return the values of an input of shape [count]."""
    array = inputs[name]
    if array.shape != (count,):
        raise InvalidRequest(f"{name}: shape {list(array.shape)}, but {[count]} is allowed")
    return list(array.tolist())


def whole(inputs: Inputs, name: str, default: int, low: int, high: int) -> int:
    """Return the integer of an input [1], or `default`; it must lie in low..high."""
    value = int(values(inputs, name, 1)[0]) if name in inputs else int(default)
    if not low <= value <= high:
        raise InvalidRequest(f"{name}: {value} is outside the allowed range, {low} to {high}")
    return value


def number(inputs: Inputs, name: str, default: float, low: float, high: float) -> float:
    """Return the number of an input [1], or `default`; it must lie in low..high."""
    value = shortest(values(inputs, name, 1)[0]) if name in inputs else float(default)
    if not low <= value <= high:
        raise InvalidRequest(f"{name}: {value:g} is outside the allowed range, {low:g} to {high:g}")
    return value


def interval(inputs: Inputs, name: str) -> tuple[float, float]:
    """Return the two ends of an input [2], within 0..1; without it, 0 and 1."""
    if name not in inputs:
        return 0.0, 1.0
    low, high = (shortest(end) for end in values(inputs, name, 2))
    # The condition is negated, so that NaN is refused.
    if not 0 <= low <= high <= 1:
        raise InvalidRequest(
            f"{name}: {low:g} to {high:g} is not allowed; low to high within 0 to 1 is expected"
        )
    return low, high


def flag(inputs: Inputs, name: str) -> bool:
    """Return the truth value of an input [1]; without it, False."""
    return bool(values(inputs, name, 1)[0]) if name in inputs else False


def text(inputs: Inputs, name: str, limit: int = 100) -> str:
    """Return the text of an input [1], at most `limit` characters in UTF-8."""
    value = values(inputs, name, 1)[0]
    try:
        decoded = value if isinstance(value, str) else bytes(value).decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{name}: {quote(repr(value[:40]))} is not text in UTF-8") from None
    if len(decoded) > limit:
        raise InvalidRequest(f"{name}: {len(decoded)} characters, and at most {limit} are allowed")
    return decoded


def read_text(name: str, data: Array, limit: int) -> str:
    """Return the text in `data`, uint8 [N], at most `limit` bytes, from an earlier stage."""
    if data.ndim != 1 or data.dtype != np.uint8:
        raise InvalidRequest(f"{name}: {data.dtype} {list(data.shape)}, but uint8 [N] is allowed")
    if data.size > limit:
        raise InvalidRequest(f"{name}: {data.size} bytes, and at most {limit} are allowed")
    try:
        return data.tobytes().decode()
    except UnicodeDecodeError:
        start = data[:40].tobytes()
        raise InvalidRequest(f"{name}: {quote(repr(start))} is not text in UTF-8") from None


def shortest(value: float) -> float:
    """Return the float64 with the same decimal form as the float32 `value`, such as 0.9."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))


def by(sides: Any) -> str:
    """Return three sides as a text such as `96 x 128 x 96`."""
    return " x ".join(f"{side:g}" if isinstance(side, float) else str(side) for side in sides)


def join(items: Any) -> str:
    """Return values as a list for a sentence."""
    return ", ".join(str(item) for item in items)


def quote(value: str) -> str:
    """Return at most 60 characters of a caller's text, quoted and on one line."""
    return repr(value[:60])
