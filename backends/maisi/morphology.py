"""Dilation and erosion by cubes, of masks [X, Y, Z]."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.bool_]
Mask = npt.NDArray[np.uint8]


def grow(bits: Bits, radius: int = 1) -> Bits:
    """Dilate by a cube of 2 `radius` + 1 voxels a side."""
    grown = bits.copy()
    for axis in range(3):
        line, before = grown.swapaxes(0, axis), grown.copy().swapaxes(0, axis)
        for shift in range(1, radius + 1):
            line[shift:] |= before[:-shift]
            line[:-shift] |= before[shift:]
    return grown


def shrink(bits: Bits, radius: int = 1, beyond: bool = False) -> Bits:
    """Erode by a cube of 2 `radius` + 1 voxels a side; outside of the volume lies `beyond`."""
    shrunk = ~grow(~bits, radius)
    if not beyond:
        for axis in range(3):
            line = shrunk.swapaxes(0, axis)
            line[:radius] = line[-radius:] = False
    return shrunk
