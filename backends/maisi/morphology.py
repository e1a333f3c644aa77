"""Dilation and erosion by cubes, and connected pieces, of masks [X, Y, Z]."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

CORNERS = np.ones((3, 3, 3), bool)  # voxels that share a corner are one piece

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


def largest(bits: Bits) -> Bits:
    """Return the largest piece, the last of equals; sharing a corner connects voxels."""
    pieces, count = ndimage.label(bits, CORNERS)
    if not count:
        return bits
    piece: Bits = pieces == count - piece_sizes(pieces, count)[::-1].argmax()
    return piece


def piece_sizes(pieces: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Return the number of voxels in each of the pieces 1 to `count`."""
    sizes = np.zeros(count + 1, np.int64)
    for slab in np.array_split(pieces, 16):  # bincount takes eight bytes a voxel
        sizes += np.bincount(slab.ravel(), minlength=count + 1)
    return sizes[1:]
