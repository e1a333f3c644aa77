"""A mask made a little different: its tumour moved within its organ, or else all of it zoomed.

After scripts/augmentation.py of NV-Generate-CTMR, where ranges and shares are from. There a tumour
is turned and scaled around the middle of the volume, here around its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation

from .conditioning import stream
from .morphology import Bits, Mask, grow, shrink


@dataclass(frozen=True)
class Move:
    """How far a tumour may go: voxels, radians, share of its size, each either way.

    `organs`: the labels it has to stay in, together with the tumour; `stays`: the least share of
    its voxels that must; `elastic`: whether its shape changes, too.
    """

    organs: tuple[int, ...]
    translate: tuple[int, int, int]
    rotate: tuple[float, float, float]
    scale: float
    stays: float = 0.8
    elastic: bool = True


_TILT = np.pi / 36
_BONES = (*range(33, 57), *range(63, 98), 114, 127)
# In the order in which they are looked for; of several tumours the first is moved.
MOVES = {
    128: Move(_BONES, (5, 5, 0), (0, 0, 0.1), 0.15, elastic=False),
    26: Move((1,), (10, 10, 10), (_TILT, _TILT, _TILT), 0.2),
    23: Move((28, 29, 30, 31, 32), (20, 20, 20), (_TILT, _TILT, np.pi), 0.15, stays=0.85),
    24: Move((4,), (15, 15, 15), (_TILT, _TILT, _TILT), 0.1),
    27: Move((62,), (5, 5, 5), (_TILT, _TILT, _TILT), 0.1),
}
_ZOOM = 0.01
_TRIES = 40
_SIGMA, _MAGNITUDE = (5, 8), (100, 200)  # of the elastic field: voxels of blur, voxels of shift


def augment(mask: Mask, healthy: npt.NDArray[np.uint8], seed: int) -> Mask:
    """Return another mask [X, Y, Z]; `healthy` [256] has the organ for every tumour's id.

    A tumour for which no place is found in so many tries stays where it is. The draw is
    `Philox(SeedSequence(seed, spawn_key=(4,)))`.
    """
    random = stream(seed, 4)
    for tumour, move in MOVES.items():
        sick = mask == tumour
        if sick.any():
            return _moved(mask, sick, tumour, int(healthy[tumour]), move, random)
    return zoom(mask, 1 + random.uniform(-_ZOOM, _ZOOM))


def zoom(mask: Mask, factor: float) -> Mask:
    """Return `mask` magnified around its middle, of the same size, by nearest neighbour."""
    for axis, side in enumerate(mask.shape):
        at = np.rint((np.arange(side) - (side - 1) / 2) / factor + (side - 1) / 2).astype(int)
        mask = np.take(mask, np.clip(at, 0, side - 1), axis)
        mask.swapaxes(0, axis)[(at < 0) | (at >= side)] = 0
    return mask


def _moved(
    mask: Mask, sick: Bits, tumour: int, organ: int, move: Move, random: np.random.Generator
) -> Mask:
    made = mask.copy()
    made[sick] = organ
    margin = max(move.translate) + 16
    (box,) = ndimage.find_objects(sick.view(np.uint8))
    near = tuple(slice(max(side.start - margin, 0), side.stop + margin) for side in box)
    part = sick[near]
    host = np.isin(mask[near], move.organs) | part
    host = shrink(grow(host, 2), 2)
    size = np.count_nonzero(part)
    for _ in range(_TRIES):
        moved = _warped(part, move, random) & host
        if np.count_nonzero(moved) >= move.stays * size:
            made[near][shrink(grow(moved, 2), 2) & host] = tumour
            return made
    return mask


def _warped(part: Bits, move: Move, random: np.random.Generator) -> Bits:
    """Return `part` shifted, turned, scaled and bent at random."""
    middle = np.array(ndimage.center_of_mass(part))[:, None, None, None]
    angles = random.uniform(-1, 1, 3) * move.rotate
    turn = Rotation.from_euler("xyz", angles).as_matrix() * (
        1 + random.uniform(-move.scale, move.scale)
    )
    shift = (random.uniform(-1, 1, 3) * move.translate)[:, None, None, None]
    at = np.einsum("ij,jxyz->ixyz", turn, np.indices(part.shape) - middle - shift) + middle
    if move.elastic:
        sigma, magnitude = random.uniform(*_SIGMA), random.uniform(*_MAGNITUDE)
        for axis in range(3):
            field = random.uniform(-1, 1, part.shape)
            at[axis] += magnitude * ndimage.gaussian_filter(field, sigma, mode="constant")
    found: Bits = ndimage.map_coordinates(part.view(np.uint8), at, order=0).view(bool)
    return found
