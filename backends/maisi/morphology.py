"""Dilate and erode masks [X, Y, Z] by cubes, and find connected pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

CORNERS = np.ones((3, 3, 3), bool)  # voxels that share a corner are connected

Bits = npt.NDArray[np.bool_]
Mask = npt.NDArray[np.uint8]


def grow(bits: Bits, radius: int = 1) -> Bits:
    """Return `bits` dilated by a cube with sides of 2 `radius` + 1 voxels."""
    grown = bits.copy()
    for axis in range(3):
        line, before = grown.swapaxes(0, axis), grown.copy().swapaxes(0, axis)
        for shift in range(1, radius + 1):
            line[shift:] |= before[:-shift]
            line[:-shift] |= before[shift:]
    return grown


def shrink(bits: Bits, radius: int = 1, beyond: bool = False) -> Bits:
    """Return `bits` eroded by a cube with sides of 2 `radius` + 1 voxels.

    Voxels outside of the volume have the value `beyond`.
    """
    shrunk = ~grow(~bits, radius)
    if not beyond:
        for axis in range(3):
            line = shrunk.swapaxes(0, axis)
            line[:radius] = line[-radius:] = False
    return shrunk


def largest(bits: Bits) -> Bits:
    """Return the largest piece, or the last one if several are equal.

    Voxels that share a corner are connected.
    """
    pieces, count = ndimage.label(bits, CORNERS)
    if not count:
        return bits
    piece: Bits = pieces == count - piece_sizes(pieces, count)[::-1].argmax()
    return piece


def piece_sizes(pieces: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Return the number of voxels in each of the pieces 1 to `count`."""
    sizes = np.zeros(count + 1, np.int64)
    for slab in np.array_split(pieces, 16):  # by slabs, as bincount uses eight bytes per voxel
        sizes += np.bincount(slab.ravel(), minlength=count + 1)
    return sizes[1:]
