"""The three middle slices of a volume as a PNG file, by numpy and zlib alone."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from nibabel import orientations
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from ._grid import orientation

_AXES = (2, 1, 0)  # normal to the axial, the coronal and the sagittal slice
_GAP = 3  # pixels
_LONGEST = 512  # pixels of the longest side of the volume, at most
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY = (8, 0, 0, 0, 0)  # bits, colour type, and the only compression, filter and interlacing


def middle_slices(image: SpatialImage) -> NDArray[np.uint8]:
    """Return the axial, coronal and sagittal middle slices side by side, `[row, column]`.

    `image` is 3-D. Up is anterior or superior, left is the patient's right or anterior. Pixels are
    squares of the smallest spacing, or larger where the volume had more than 512 of them. Grey
    levels are those of `window`.
    """
    to_ras = orientation(np.asarray(image.affine))
    values = orientations.apply_orientation(np.asanyarray(image.dataobj), to_ras)
    affine = image.affine @ orientations.inv_ornt_aff(to_ras, image.shape)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    lengths = spacing * values.shape
    pixel = max(float(spacing.min()), float(lengths.max()) / _LONGEST)
    low, high = window(values, values > values.mean())
    tiles = []
    for axis in _AXES:
        across, up = (other for other in range(3) if other != axis)
        cut = values.take(values.shape[axis] // 2, axis)
        nearest = [
            ((np.arange(max(1, round(lengths[side] / pixel))) + 0.5) * pixel / spacing[side])
            .astype(np.intp)
            .clip(0, values.shape[side] - 1)
            for side in (across, up)
        ]
        grey = np.clip((cut[np.ix_(*nearest)] - low) / (high - low), 0, 1)
        tiles.append(np.rint(255 * grey).astype(np.uint8)[::-1, ::-1].T)
    width = sum(tile.shape[1] for tile in tiles) + _GAP * (len(tiles) - 1)
    page = np.zeros((max(tile.shape[0] for tile in tiles), width), np.uint8)
    left = 0
    for tile in tiles:
        top = (page.shape[0] - tile.shape[0]) // 2
        page[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        left += tile.shape[1] + _GAP
    return page


def window(voxels: NDArray[Any], focus: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the values drawn black and white: MR from zero, CT (below zero) around the focus."""
    values = voxels[focus] if focus.any() else voxels
    low, high = np.percentile(values, [2, 99.5]).tolist()
    low = low if voxels.min() < 0 else 0.0
    return low, max(1.05 * high, low + 1)


def png(grey: NDArray[np.uint8]) -> bytes:
    """Return a PNG file of grey levels `[row, column]`; its text says that they are synthetic.

    The format is that of https://www.w3.org/TR/png-3/.
    """
    rows = np.pad(grey, ((0, 0), (1, 0)))  # the byte before each row: no filter
    height, width = grey.shape
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, *_GREY),
        b"tEXt": b"Description\0SYNTHETIC",
        b"IDAT": zlib.compress(rows.tobytes(), 9),
        b"IEND": b"",
    }
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )
