"""Add the body around the organs, which MAISI's CT ControlNet expects as label 200.

The label is defined in configs/label_dict.json and add_body_envelope in scripts/utils.py of
NV-Generate-CTMR.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from .errors import InvalidRequest
from .inputs import Array, by
from .morphology import Bits, Mask, grow, largest, piece_sizes, shrink

BODY = 200
# From add_body_envelope: values below are air, and a piece of air with this share of the body is
# the table.
AIR_HU = -800
TABLE_SHARE = 0.05
# Our choice. With labels and CT of TotalSegmentator v2.18.0 (tests/reference_files: example_ct and
# example_seg_fast_force_split) `fill` misses 15 % of the body; 1 % of what it adds is air.
CLOSING_MM = 30.0
MARGIN_MM = 20.0
CELL_MM = 4.0
MOST_CELLS = 192


def envelope(mask: Mask, image: Array, has_lung: bool) -> Mask:
    """Return `mask` [X, Y, Z] with 200 where `image` [X, Y, Z], in HU, shows unlabelled body.

    If the lungs are labelled (`has_lung`), large pieces of air in the body are treated as the
    scanner's table and removed. The steps, the constants and the result are those of
    add_body_envelope in scripts/utils.py of NV-Generate-CTMR. Raises InvalidRequest if the shapes
    differ.
    """
    if image.shape != mask.shape:
        raise InvalidRequest(
            f"image: {by(image.shape)} voxels, but the mask's {by(mask.shape)} are expected"
        )
    air = image < AIR_HU
    labelled = mask > 0
    outside = shrink(grow(largest(air), 1), 1, beyond=True)
    body = shrink(~outside | labelled, 2, beyond=False)
    body = grow(largest(body), 2)
    body = shrink(grow(body, 1), 1, beyond=True)
    filled = mask.copy()
    filled[body & ~labelled] = BODY
    if has_lung:
        _cut_table(filled, air)
    return filled


def fill(
    mask: Mask, spacing: Sequence[float], closing: float = CLOSING_MM, margin: float = MARGIN_MM
) -> Mask:
    """Return `mask` [X, Y, Z], z along the body, with 200 where the labels suggest a body.

    This is an approximation without an image. The labels are dilated by `margin` mm, then closed
    with a ball of `closing` mm, and holes in every axial slice are filled. Body far from all labels
    is missed: limbs are too thin, and thick fat is lost. The body is assumed to continue beyond the
    first and the last slice, but not beyond the other faces. `spacing` is in mm. Labels are not
    changed. The result is computed on cells of about 4 mm, or larger cells if a side would have
    more than 192, and is exact to about one cell.
    """
    sides = zip(mask.shape, spacing, strict=True)
    step = [max(1, round(CELL_MM / mm), -(-side // MOST_CELLS)) for side, mm in sides]
    cell = [factor * mm for factor, mm in zip(step, spacing, strict=True)]
    pad = [math.ceil((closing + margin) / side) + 1 for side in cell]
    cells = _any_in_cells(mask, step)
    if not cells.any():
        return mask.copy()
    cells = np.pad(cells, [(pad[0],) * 2, (pad[1],) * 2, (0, 0)])
    cells = np.pad(cells, [(0, 0), (0, 0), (pad[2],) * 2], mode="edge")
    grown = ndimage.distance_transform_edt(~cells, sampling=cell) <= closing + margin
    # Interpolate the depth before it is compared with `closing`, so that the surface is smooth.
    depth = ndimage.distance_transform_edt(grown, sampling=cell).astype(np.float32)
    for k in range(pad[2], depth.shape[2] - pad[2]):
        inside = depth[..., k] > closing
        depth[ndimage.binary_fill_holes(inside) & ~inside, k] = closing + 1
    return _fill_deeper(mask, depth, closing, step, pad)


def _any_in_cells(mask: Mask, step: Sequence[int]) -> Bits:
    """Return which cells of `step` voxels have a label, [X / step, ...] rounded up."""
    for axis, factor in enumerate(step):
        mask = np.maximum.reduceat(mask, range(0, mask.shape[axis], factor), axis)
    return mask > 0


def _fill_deeper(
    mask: Mask, depth: Array, threshold: float, step: Sequence[int], pad: Sequence[int]
) -> Mask:
    """Return `mask` filled where `depth`, sampled at the cells' centres, is above `threshold`."""
    # For linear interpolation: each voxel's cell before it, and the weight of the next cell.
    positions = [
        np.divmod((np.arange(side) - (factor - 1) / 2) / factor + before, 1)
        for side, factor, before in zip(mask.shape, step, pad, strict=True)
    ]
    (x, dx), (y, dy), (z, dz) = (
        (cell.astype(int), weight.astype("f4")) for cell, weight in positions
    )
    filled = mask.copy()
    for i, plane in enumerate(filled):
        at_x = depth[x[i]] * (1 - dx[i]) + depth[x[i] + 1] * dx[i]
        at_y = at_x[y] * (1 - dy[:, None]) + at_x[y + 1] * dy[:, None]
        at_z = at_y[:, z] * (1 - dz) + at_y[:, z + 1] * dz
        plane[(plane == 0) & (at_z > threshold)] = BODY
    return filled


def _cut_table(mask: Mask, air: Bits) -> None:
    """Set every large connected piece of air in the body to background, in place."""
    body = mask == BODY
    parts, count = ndimage.label(body & air)
    large = piece_sizes(parts, count) >= TABLE_SHARE * np.count_nonzero(body)
    table = np.append(False, large)
    for plane, part in zip(mask, parts, strict=True):
        plane[table[part]] = 0
