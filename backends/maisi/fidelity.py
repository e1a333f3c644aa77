"""Measure how well a volume follows its mask: edges where labels meet, and the HU of organs in CT.

docs/how-to/generation.md describes how the threshold was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .inputs import Array, Variant

FAITHFUL = 1.25  # least ratio of the contrast across borders to that across displaced ones
_APART = (-7, -4, 4, 7)  # voxels of displacement of the borders; an edge is narrower
_ENOUGH = 2**21  # voxels; in a larger volume, only every n-th plane is measured
_FEW = 100  # least pairs of voxels for a meaningful mean


def measure(variant: Variant, image: Array, mask: Array) -> dict[str, Any]:
    """Return `borders`, `organs` and `faithful`, which is None if nothing could be measured.

    `image` int16 and `mask` uint8 are [X, Y, Z].
    """
    image, mask = sampled_planes(image, mask)
    edges, medians = borders(image, mask), organs(variant, image, mask)
    verdicts = [organ["within"] for organ in medians.values()]
    if edges is not None:
        verdicts.append(edges["ratio"] >= FAITHFUL)
    return {
        "faithful": all(verdicts) if verdicts else None,
        "borders": edges,
        "organs": medians,
    }


def sampled_planes(image: Array, mask: Array) -> tuple[Array, Array]:
    """Return every n-th plane of both [X, Y, Z], so that about `_ENOUGH` voxels are measured."""
    stride = -(-mask.size // _ENOUGH)
    return image[::stride], mask[::stride]


def borders(image: Array, mask: Array) -> dict[str, float] | None:
    """Return the grey-level steps where labels meet, and where labels of a displaced mask meet.

    `contrast` and `displaced` are these mean absolute differences of neighbours along y and z.
    Their `ratio` is 1 for a volume that ignores its mask. Pairs with background are omitted,
    because the server itself sets the background. The result is None if too few labels meet.
    """
    displacements = [(0, 0)] + [(s, 0) for s in _APART] + [(0, s) for s in _APART]
    sums = _steps(image, mask, 1, displacements) + _steps(image, mask, 2, displacements)
    (total, pairs), (control_total, control_pairs) = sums[0], sums[1:].sum(0)
    if min(pairs, control_pairs) < _FEW:
        return None
    contrast = float(total / pairs)
    displaced = float(control_total / control_pairs)
    return {
        "contrast": round(contrast, 2),
        "displaced": round(displaced, 2),
        "ratio": round(contrast / max(displaced, 1e-3), 3),
    }


def _steps(
    image: Array, mask: Array, axis: int, displacements: Sequence[tuple[int, int]]
) -> npt.NDArray[np.int64]:
    """Return the sum of grey-level steps where labels meet, and their number, [D, 2].

    There is a row for each of the displacements (y, z) of the labels in voxels, with wraparound.
    Steps are between neighbours along `axis` that are both within `mask`.
    """
    sides = mask.shape[1:]
    following = np.roll(mask, -1, axis)
    within = (mask > 0) & (following > 0)
    x, *border = np.nonzero(within & (mask != following))
    steps = np.roll(image, -1, axis).astype(np.int32)
    np.abs(np.subtract(steps, image, out=steps), out=steps)
    steps[~within] = -1
    steps.swapaxes(0, axis)[-1] = -1  # the last voxel has no neighbour
    sums = np.empty((len(displacements), 2), np.int64)
    for row, displacement in zip(sums, displacements, strict=True):
        y, z = ((at + by) % n for at, by, n in zip(border, displacement, sides, strict=True))
        values = steps.ravel().take((x * sides[0] + y) * sides[1] + z)
        row[:] = values.sum(where=values >= 0), np.count_nonzero(values >= 0)
    return sums


def organs(variant: Variant, image: Array, mask: Array) -> dict[str, dict[str, Any]]:
    """Return the median of each organ of the variant's `reference` that is in `mask`.

    `low` and `high` are the range of real scans in HU. `within` is the opposite of is_outlier in
    scripts/quality_check.py of NV-Generate-CTMR. A variant without `reference` has no organs.
    """
    reference = variant.get("reference", {})
    if not reference:
        return {}
    lowest, levels = int(image.min()), int(image.max()) - int(image.min()) + 1
    counts = np.zeros((256, levels), np.int64)
    measured = np.zeros(256, bool)
    measured[[label for organ in reference.values() for label in organ["labels"]]] = True
    for plane, labels in zip(
        image, mask, strict=True
    ):  # by planes, because an index needs eight bytes per voxel
        part = measured[labels]
        index = labels[part].astype(np.int64) * levels + (plane[part] - lowest)
        counts += np.bincount(index, minlength=counts.size).reshape(counts.shape)
    medians = {}
    for name, organ in reference.items():
        cumulative = np.cumsum(counts[organ["labels"]].sum(0))
        if voxels := int(cumulative[-1]):
            middle = np.searchsorted(cumulative, [(voxels + 1) // 2, voxels // 2 + 1])
            median = float(middle.mean()) + lowest
            low, high = organ["range"]
            within = bool(low <= median <= high)
            medians[name] = {"median": median, "low": low, "high": high, "within": within}
    return medians
