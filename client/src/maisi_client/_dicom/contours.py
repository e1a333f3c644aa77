"""Outlines of a region in a slice, as closed polygons without holes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray


def contours(region: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Return the closed polygons, `[points, 2]`, around the pixels of a region `[rows, columns]`.

    A point is (column, row); whole numbers are the centres of pixels. Lines run halfway between the
    centre of a pixel inside and of its neighbour outside (marching squares), so the polygons
    contain the centres of exactly the region's pixels. A line that is passed in both directions
    joins a hole with its outline (the keyhole of PS3.3 C.8.8.6.3), so no polygon has to be
    subtracted from another.
    """
    from contourpy import FillType, contour_generator

    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return []
    first = np.array([columns[0], rows[0]], np.float64)
    cropped = region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    generator = contour_generator(
        z=np.pad(cropped, 1).astype(np.float64), name="serial", fill_type=FillType.OuterOffset
    )
    polygons = []
    for points, offsets in zip(*generator.filled(0.5, 2), strict=True):
        rings = [
            _corners(points[start : end - 1])  # the last point repeats the first
            for start, end in pairwise(offsets)
        ]
        polygons.append(_keyhole(rings) + first - 1)
    return polygons


def _corners(ring: NDArray[Any]) -> NDArray[np.float64]:
    """Return a closed ring without the points that lie on a straight line."""
    steps = np.diff(ring, axis=0, append=ring[:1])
    before = np.concatenate([steps[-1:], steps[:-1]])
    corners: NDArray[np.float64] = ring[before[:, 0] * steps[:, 1] != before[:, 1] * steps[:, 0]]
    return corners


def _keyhole(rings: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return an outer ring that is joined with each of its holes by a line between close points."""
    outline, *holes = rings
    for hole in holes:
        # The line joins the hole's first point with the nearest point of the outline so far.
        at = int(np.argmin(((outline - hole[0]) ** 2).sum(axis=1)))
        outline = np.concatenate([outline[: at + 1], hole, hole[:1], outline[at:]])
    return outline
