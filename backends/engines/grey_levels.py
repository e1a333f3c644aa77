"""The grey levels of a volume, from the output of a variant's VAE decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from . import Array
from .guard import NOT_FINITE, Refused

_PLANES = 16  # converted at a time, so that there are no further copies of a whole volume


def convert(intensity: Mapping[str, Any], decoded: Array, levels: npt.NDArray[np.int16]) -> None:
    """Map `decoded` 0..1 onto the variant's grey levels, and write whole numbers to `levels`.

    Both are [X, Y, Z]; `decoded` is float32 or float16, the arithmetic is float32. `intensity`:
    `min` and `max` are the grey levels of 0 and 1; with `clip_above` no level exceeds `max`. Raises
    Refused for values that are not finite.
    """
    low, high = intensity["min"], intensity["max"]
    for start in range(0, len(decoded), _PLANES):
        slab = decoded[start : start + _PLANES].astype(np.float32)
        if not np.isfinite(slab).all():
            raise Refused(f"image: {NOT_FINITE}")
        np.clip(slab, 0, 1 if intensity["clip_above"] else None, out=slab)
        slab *= high - low
        slab += low
        np.rint(slab, out=slab)
        levels[start : start + _PLANES] = np.clip(slab, -32768, 32767)
