"""Augment a mask: move its tumour within its organ, or zoom the whole mask.

The method is that of scripts/augmentation.py in NV-Generate-CTMR, with the same ranges and shares.
One difference: that script rotates and scales a tumour around the centre of the volume, this module
around the centre of the tumour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation

from .conditioning import random_stream
from .morphology import Bits, Mask, grow, shrink


@dataclass(frozen=True)
class Move:
    """The limits of a tumour's movement along or around each axis.

    They are in voxels, radians, and shares of its size.

    The tumour must stay in `organs` or its own label; at least the share `min_inside` of its voxels
    must do so. With `elastic`, its shape also changes.
    """

    organs: tuple[int, ...]
    translate: tuple[int, int, int]
    rotate: tuple[float, float, float]
    scale: tuple[float, float, float]
    min_inside: float = 0.8
    elastic: bool = True


_TILT = np.pi / 36
_BONES = (*range(33, 57), *range(63, 98), 114, 127)
# In order of precedence: if there are several tumours, the first one is moved.
MOVES = {
    128: Move(_BONES, (5, 5, 0), (0, 0, 0.1), (0.15, 0.15, 0), elastic=False),
    26: Move((1,), (10, 10, 10), (_TILT, _TILT, _TILT), (0.2, 0.2, 0.2)),
    23: Move((28, 29, 30, 31, 32), (20, 20, 20), (_TILT, _TILT, np.pi), (0.15,) * 3, 0.85),
    24: Move((4,), (15, 15, 15), (_TILT, _TILT, _TILT), (0.1, 0.1, 0.1)),
    27: Move((62,), (5, 5, 5), (_TILT, _TILT, _TILT), (0.1, 0.1, 0.1)),
}
_ZOOM = 0.01
_TRIES = 40
_SIGMA, _MAGNITUDE = (5, 8), (100, 200)  # the elastic field's blur and shift in voxels


def augment(mask: Mask, healthy: npt.NDArray[np.uint8], seed: int) -> Mask:
    """Return an augmented mask [X, Y, Z].

    `healthy` [256] maps a tumour's id to the organ that replaces it. If a tumour does not fit into
    its organ in 40 tries, it is not moved. The random numbers are
    `Philox(SeedSequence(seed, spawn_key=(4,)))`.
    """
    random = random_stream(seed, 4)
    for tumour, move in MOVES.items():
        lesion = mask == tumour
        if lesion.any():
            return _moved(mask, lesion, tumour, int(healthy[tumour]), move, random)
    return zoom(mask, 1 + random.uniform(-_ZOOM, _ZOOM))


def zoom(mask: Mask, factor: float) -> Mask:
    """Return `mask` magnified around its centre by nearest neighbour, with the same size.

    Where a smaller mask ends, its outermost labels continue.
    """
    for axis, side in enumerate(mask.shape):
        index = np.rint((np.arange(side) - (side - 1) / 2) / factor + (side - 1) / 2).astype(int)
        mask = np.take(mask, np.clip(index, 0, side - 1), axis)
    return mask


def _moved(
    mask: Mask, lesion: Bits, tumour: int, organ: int, move: Move, random: np.random.Generator
) -> Mask:
    """Return `mask` with its `lesion` moved, or `mask` itself if no move fits."""
    augmented = mask.copy()
    augmented[lesion] = organ
    margin = max(move.translate) + 16
    (box,) = ndimage.find_objects(lesion.view(np.uint8))
    near = tuple(slice(max(side.start - margin, 0), side.stop + margin) for side in box)
    part = lesion[near]
    host = np.isin(mask[near], move.organs) | part
    if move.elastic:  # organs, but not the gaps between bones, are closed
        host = shrink(grow(host, 2), 2, beyond=True)
    size = np.count_nonzero(part)
    for _ in range(_TRIES):
        moved = _warped(part, move, random) & host
        if np.count_nonzero(moved) >= move.min_inside * size:
            augmented[near][shrink(grow(moved, 2), 2, beyond=True) & host] = tumour
            return augmented
    return mask


def _warped(part: Bits, move: Move, random: np.random.Generator) -> Bits:
    """Return `part` shifted, rotated, scaled and deformed at random."""
    centre = np.array(ndimage.center_of_mass(part))[:, None, None, None]
    angles = random.uniform(-1, 1, 3) * move.rotate
    scales = 1 + random.uniform(-1, 1, 3) * move.scale
    matrix = Rotation.from_euler("xyz", angles).as_matrix() * scales
    shift = (random.uniform(-1, 1, 3) * move.translate)[:, None, None, None]
    offsets = np.indices(part.shape) - centre - shift
    coordinates = np.einsum("ij,jxyz->ixyz", matrix, offsets) + centre
    if move.elastic:
        sigma, magnitude = random.uniform(*_SIGMA), random.uniform(*_MAGNITUDE)
        for axis in range(3):
            field = random.uniform(-1, 1, part.shape)
            coordinates[axis] += magnitude * ndimage.gaussian_filter(field, sigma, mode="constant")
    warped: Bits = ndimage.map_coordinates(part.view(np.uint8), coordinates, order=0).view(bool)
    return warped
