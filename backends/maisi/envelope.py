"""The body around the organs, which MAISI's CT ControlNet expects as label 200.

The label: configs/label_dict.json and add_body_envelope in scripts/utils.py of NV-Generate-CTMR.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .errors import InvalidRequest
from .inputs import Array, by
from .morphology import Bits, Mask, grow, shrink

BODY = 200
# add_body_envelope: below is air, and air of this share of the body is the table.
AIR_HU = -800
TABLE_SHARE = 0.05
# A choice. With labels and CT of TotalSegmentator v2.18.0 (tests/reference_files: example_ct and
# example_seg_fast_force_split) `fill` leaves out 15 % of the body, and 1 % of what it takes is air.
CLOSING_MM = 30.0
MARGIN_MM = 20.0
CELL_MM = 4.0
MOST_CELLS = 192


def envelope(mask: Mask, image: Array, has_lung: bool) -> Mask:
    """Return `mask` [X, Y, Z] with 200 where `image` [X, Y, Z], in HU, shows unlabelled body.

    `has_lung` says that the lungs are labelled: only then is air within the body looked for and
    taken for the table of the scanner, which is cut off. The steps and constants are those of
    add_body_envelope in scripts/utils.py of NV-Generate-CTMR, and so is the result. Raises
    InvalidRequest when the shapes differ.
    """
    if image.shape != mask.shape:
        raise InvalidRequest(
            f"image: {by(image.shape)} voxels, and its mask of {by(mask.shape)} allows no others"
        )
    air = image < AIR_HU
    labelled = mask > 0
    outside = shrink(grow(_largest(air), 1), 1, beyond=True)
    body = shrink(~outside | labelled, 2, beyond=False)
    body = grow(_largest(body), 2)
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

    An approximation for want of an image: the labels grown by `margin` mm, then closed with a ball
    of `closing` mm, and the holes in every axial slice filled. What no label is near to stays out:
    limbs come out thin, and thick fat is lost. The body is taken to go on beyond the first and the
    last slice, and not beyond the other faces. `spacing` in mm. Labels stay. Worked out on cells of
    about 4 mm, more where a side would have over 192, and true to about one cell.
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
    # Interpolated before it is cut at `closing`, so that the surface is smooth.
    depth = ndimage.distance_transform_edt(grown, sampling=cell).astype(np.float32)
    for k in range(pad[2], depth.shape[2] - pad[2]):
        inside = depth[..., k] > closing
        depth[ndimage.binary_fill_holes(inside) & ~inside, k] = closing + 1
    return _fill_deeper(mask, depth, closing, step, pad)


def _any_in_cells(mask: Mask, step: Sequence[int]) -> Bits:
    """Return where a cell of `step` voxels holds a label, [X / step, ...] rounded up."""
    for axis, factor in enumerate(step):
        mask = np.maximum.reduceat(mask, range(0, mask.shape[axis], factor), axis)
    return mask > 0


def _fill_deeper(
    mask: Mask, depth: Array, least: float, step: Sequence[int], pad: Sequence[int]
) -> Mask:
    """Return `mask` filled where `depth`, given at the cells' centres, is more than `least`."""
    # Where each voxel lies among the cells: the one before, and the share of the next.
    places = [
        np.divmod((np.arange(side) - (factor - 1) / 2) / factor + before, 1)
        for side, factor, before in zip(mask.shape, step, pad, strict=True)
    ]
    (x, dx), (y, dy), (z, dz) = ((at.astype(int), share.astype("f4")) for at, share in places)
    filled = mask.copy()
    for i, plane in enumerate(filled):
        at_x = depth[x[i]] * (1 - dx[i]) + depth[x[i] + 1] * dx[i]
        at_y = at_x[y] * (1 - dy[:, None]) + at_x[y + 1] * dy[:, None]
        at_z = at_y[:, z] * (1 - dz) + at_y[:, z + 1] * dz
        plane[(plane == 0) & (at_z > least)] = BODY
    return filled


def _largest(bits: Bits) -> Bits:
    """Return the largest component, the last of equals, with voxels that touch by a corner even."""
    parts, count = ndimage.label(bits, np.ones((3, 3, 3)))
    if not count:
        return bits
    largest: Bits = parts == count - _sizes(parts, count)[::-1].argmax()
    return largest


def _sizes(parts: Array, count: int) -> npt.NDArray[np.int64]:
    """Return the voxels in each of the parts 1 to `count`."""
    sizes = np.zeros(count + 1, np.int64)
    for slab in np.array_split(parts, 16):  # bincount takes eight bytes a voxel
        sizes += np.bincount(slab.ravel(), minlength=count + 1)
    return sizes[1:]


def _cut_table(mask: Mask, air: Bits) -> None:
    """Set every part of the body that is air, of one piece and large, to background, in place."""
    body = mask == BODY
    parts, count = ndimage.label(body & air)
    large = _sizes(parts, count) >= TABLE_SHARE * np.count_nonzero(body)
    table = np.append(False, large)
    for plane, of in zip(mask, parts, strict=True):
        plane[table[of]] = 0
