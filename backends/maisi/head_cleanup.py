"""The cleanup of a generated mask of the head: pieces apart, holes, lesions and specks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .conditioning import organs_of_lesions
from .inputs import Variant
from .morphology import CORNERS, Bits, Mask, largest, piece_sizes

# A smaller piece of an organ, in voxels, is a speck. The value is our choice.
SPECK = 8
_SPACE = 16  # voxels by which an organ may grow


def clean(
    variant: Variant,
    labels: Mask,
    requested: Collection[int],
    volumes: Mapping[str, float] = MappingProxyType({}),
    seed: int = 0,
) -> Mask:
    """Return a cleaned copy of `labels` [X, Y, Z]; `requested` are the ids of the lesions to keep.

    `volumes` has requested volumes in ml by the names of sizes. Voxels that share a corner belong
    to one piece. The steps are, in this order:

    - only the largest piece of all labels together is kept;
    - background that it encloses gets the nearest label;
    - lesions that were not requested are replaced by their organs, see `_heal`, and so are all
      pieces of a requested tumour except the largest;
    - a lesion with a requested volume loses its outermost voxels, or grows into the labels in its
      `within`, until it has that volume. One that is missing begins at a random voxel of these
      labels, which `seed` determines, so deep in them that a ball of that volume fits;
    - an organ with a requested volume shrinks or grows likewise, each of its labels by the same
      factor;
    - pieces of an organ below 8 voxels get the most frequent label around them. Lesions, and the
      labels in the variant's `mask_generation.scattered`, are not organs.
    """
    data = np.where(largest(labels != 0), labels, np.uint8(0))
    _fill_holes(data)
    _replace_lesions(variant, data, requested)
    _resize(variant, data, volumes, seed)
    others = {0, *variant["mask_generation"]["scattered"]}
    others |= {int(id_) for id_ in (*variant["lesions"], *variant.get("lesion_neighbours", {}))}
    _absorb_specks(data, {int(id_) for id_ in variant["labels"]} - others)
    return data


def _fill_holes(data: Mask) -> None:
    """Set background that the labels enclose to the label of the nearest voxel, in place."""
    holes = ndimage.binary_fill_holes(data != 0) & (data == 0)
    if not holes.any():
        return
    (sides,) = ndimage.find_objects(holes.view(np.uint8))
    box = tuple(
        slice(side.start - 1, side.stop + 1) for side in sides
    )  # a hole cannot be at a face
    part, holes = data[box], holes[box]
    nearest = ndimage.distance_transform_edt(part == 0, return_distances=False, return_indices=True)
    part[holes] = part[tuple(nearest[:, holes])]


def _replace_lesions(variant: Variant, data: Mask, requested: Collection[int]) -> None:
    """Replace lesions in place, except requested ones; of a tumour, keep only the largest piece."""
    for entry in variant["mask_generation"]["sizes"]:
        if "label" not in entry:
            continue
        part = data == entry["label"]
        if entry["label"] not in requested:
            _heal(variant, data, part, entry)
        elif entry.get("tumour"):
            _heal(variant, data, part & ~largest(part), entry)


def _heal(variant: Variant, data: Mask, part: Bits, entry: Mapping[str, Any]) -> None:
    """Set `part` of a lesion to its organ in the variant's `lesions`, in place.

    Where the lesion is not a tumour and has organs on both sides, it becomes the nearest label in
    its `within`.
    """
    if not part.any():
        return
    organs = () if entry.get("tumour") else entry.get("within", ())
    if not _replace_by_nearest(data, part, organs):
        data[part] = organs_of_lesions(variant, data)[entry["label"]]


def _replace_by_nearest(data: Mask, part: Bits, labels: Collection[int]) -> bool:
    """Set `part` of `data` to the nearest of `labels`, in place; return False if there is none."""
    others = np.isin(data, list(labels)) & ~part
    if not others.any():
        return False
    index = ndimage.distance_transform_edt(~others, return_distances=False, return_indices=True)
    data[part] = data[tuple(index[:, part])]
    return True


def _resize(variant: Variant, data: Mask, volumes: Mapping[str, float], seed: int) -> None:
    """Change lesions, then organs, in `data` to `volumes` in ml, in place, if they have space."""
    millilitres = math.prod(variant["mask_generation"]["spacing"]) / 1000
    entries = [e for e in variant["mask_generation"]["sizes"] if e["name"] in volumes]
    for entry in sorted(entries, key=lambda entry: "labels" in entry):
        voxels = max(1, round(volumes[entry["name"]] / millilitres))
        if "labels" in entry:
            _resize_organ(data, voxels, entry)
        else:
            _resize_lesion(variant, data, voxels, entry, seed)


def _resize_lesion(
    variant: Variant, data: Mask, voxels: int, entry: Mapping[str, Any], seed: int
) -> None:
    """Change a lesion in `data`, which may be missing, to `voxels` voxels, in place."""
    label = entry["label"]
    part = data == label
    allowed = np.isin(data, entry["within"]) | part
    if part.any():
        resized = _shrunk(part, voxels)
    else:
        resized = _planted(allowed, voxels, np.random.default_rng((seed, label)))
    if entry.get("tumour"):
        resized = largest(resized)
    resized = _grown(resized, voxels, allowed)
    _heal(variant, data, part & ~resized, entry)
    data[resized] = label


def _resize_organ(data: Mask, voxels: int, entry: Mapping[str, Any]) -> None:
    """Change the labels of an organ in `data` to `voxels` voxels in all, in place."""
    organ = np.isin(data, entry["labels"])
    if not organ.any():
        return
    (sides,) = ndimage.find_objects(organ.view(np.uint8))
    data = data[tuple(slice(max(0, side.start - _SPACE), side.stop + _SPACE) for side in sides)]
    removed = np.zeros_like(data, bool)
    for label in entry["labels"]:
        part = data == label
        wanted = round(np.count_nonzero(part) * voxels / np.count_nonzero(organ))
        resized = _grown(_shrunk(part, wanted), wanted, np.isin(data, entry["within"]))
        removed |= part & ~resized
        data[resized] = label
    if removed.any():
        _replace_by_nearest(data, removed, entry["within"])


def _planted(allowed: Bits, voxels: int, random: np.random.Generator) -> Bits:
    """Return one voxel of `allowed` [X, Y, Z] around which a ball of `voxels` voxels fits in it.

    Where no ball of that size fits, it is one of the deepest voxels. Without any it is empty.
    """
    depth = ndimage.distance_transform_edt(allowed)
    radius = min((0.75 * voxels / math.pi) ** (1 / 3), depth.max())
    voxel = np.zeros_like(allowed)
    if radius > 0:
        voxel.flat[random.choice(np.flatnonzero(depth >= radius))] = True
    return voxel


def _shrunk(part: Bits, voxels: int) -> Bits:
    """Return the `voxels` voxels of `part` [X, Y, Z] that are farthest from its border."""
    inside = np.flatnonzero(part)
    if inside.size <= voxels:
        return part
    depth = ndimage.distance_transform_edt(part).flat[inside]
    order = np.lexsort((_shuffled(inside), -_density(part).flat[inside], -depth))
    shrunk = part.copy()
    shrunk.flat[inside[order[voxels:]]] = False
    return shrunk


def _grown(part: Bits, voxels: int, allowed: Bits) -> Bits:
    """Return `part` [X, Y, Z] with the nearest voxels of `allowed` around it, `voxels` in all."""
    if np.count_nonzero(part) >= voxels:
        return part
    distance = ndimage.distance_transform_edt(~part)
    # Alternating between 6 and 26 neighbours, a part grows like a ball and stays connected.
    for faces in itertools.cycle((True, False)):
        missing = voxels - np.count_nonzero(part)
        structure = ndimage.generate_binary_structure(3, 1 if faces else 3)
        shell = np.flatnonzero(ndimage.binary_dilation(part, structure) & allowed & ~part)
        if missing <= 0 or not part.any() or not shell.size:
            break
        order = np.lexsort((_shuffled(shell), -_density(part).flat[shell], distance.flat[shell]))
        part = part.copy()
        part.flat[shell[order[:missing]]] = True
    return part


def _density(part: Bits) -> npt.NDArray[np.int32]:
    """Return the number of voxels of `part` [X, Y, Z] in the 5 x 5 x 5 voxels around each voxel.

    Of voxels at one distance from a border, those in its hollows have the highest number.
    """
    count = part.astype(np.int32)
    for axis in range(3):
        count = ndimage.convolve1d(count, np.ones(5, np.int32), axis, mode="constant")
    return count


def _shuffled(index: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return a hash of each index, so that voxels of one rank are taken from all sides alike.

    The hash is Knuth's multiplicative one (The Art of Computer Programming, volume 3, 6.4).
    """
    return index * 2654435761 % 2**32


def _absorb_specks(data: Mask, organs: Collection[int]) -> None:
    """Set pieces of `organs` below SPECK voxels to the most frequent label around them, in place.

    A voxel around a speck counts once for each voxel of the speck that it touches by a face, edge
    or corner. Background and specks do not count. A speck that touches only specks is replaced
    after them.
    """
    padded = np.pad(data, 1)  # so that every voxel has all neighbours
    _, y, z = padded.shape
    steps = [(i - 1) * y * z + (j - 1) * z + k - 1 for i, j, k in np.argwhere(CORNERS)]
    labels, numbers = padded.reshape(-1), np.pad(_specks(data, organs), 1).reshape(-1)
    voxels = np.flatnonzero(numbers)
    numbers, labels_before = numbers[voxels], labels[voxels]
    labels[voxels] = 0
    present = np.flatnonzero(np.bincount(labels, minlength=256))
    columns = np.zeros(256, np.int64)
    columns[present] = np.arange(present.size)
    while voxels.size:
        _, rows = np.unique(numbers, return_inverse=True)
        votes = np.zeros((rows.max() + 1) * present.size, np.int64)
        for step in steps:
            pairs = rows * present.size + columns[labels[voxels + step]]
            votes += np.bincount(pairs, minlength=votes.size)
        votes = votes.reshape(-1, present.size)
        votes[:, 0] = 0  # background
        winners = present[votes.argmax(1)][rows]
        if not winners.any():
            labels[voxels] = labels_before  # there are only specks
            break
        labels[voxels] = winners
        left = winners == 0
        voxels, numbers, labels_before = voxels[left], numbers[left], labels_before[left]
    data[...] = padded[1:-1, 1:-1, 1:-1]


def _specks(data: Mask, organs: Collection[int]) -> npt.NDArray[np.int32]:
    """Return the number, from 1, of the speck of `organs` at each voxel [X, Y, Z]; 0 elsewhere."""
    numbers, count = np.zeros(data.shape, np.int32), 0
    boxes = ndimage.find_objects(data, max_label=255)
    for organ in sorted(organs):
        if (box := boxes[organ - 1]) is None:
            continue
        pieces, piece_count = ndimage.label(data[box] == organ, CORNERS)
        small = piece_sizes(pieces, piece_count) < SPECK
        speck_numbers = np.where(small, count + np.cumsum(small), 0)
        numbers[box] += np.append(0, speck_numbers)[pieces]
        count += np.count_nonzero(small)
    return numbers
