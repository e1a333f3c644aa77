"""How well a volume follows its mask: edges where labels meet, and the HU of organs in CT.

docs/how-to/generation.md says how the threshold was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .inputs import Array, Variant

FAITHFUL = 1.25  # least ratio of the contrast across borders to that across displaced ones
_APART = (-7, -4, 4, 7)  # voxels of displacement of the borders; an edge is narrower
_ENOUGH = 2**22  # voxels; of larger volumes, every n-th plane is measured
_FEW = 100  # pairs of voxels, below which a mean says nothing


def measure(variant: Variant, image: Array, mask: Array) -> dict[str, Any]:
    """Return `borders`, `organs` and `faithful`, which is None where nothing could be measured.

    `image` int16 and `mask` uint8 are [X, Y, Z].
    """
    edges, medians = borders(image, mask), organs(variant, image, mask)
    verdicts = [organ["within"] for organ in medians.values()]
    if edges is not None:
        verdicts.append(edges["ratio"] >= FAITHFUL)
    return {
        "faithful": all(verdicts) if verdicts else None,
        "borders": edges,
        "organs": medians,
    }


def borders(image: Array, mask: Array) -> dict[str, float] | None:
    """Compare grey-level steps where labels meet with those where they meet in a displaced mask.

    `contrast` and `displaced` are mean absolute differences of neighbours along y and z; a volume
    that ignores its mask has a `ratio` of 1. Pairs with background are omitted, as the server
    itself draws that edge. None where too few labels meet.
    """
    stride = -(-mask.size // _ENOUGH)
    image, mask = image[::stride].astype(np.int32), mask[::stride]
    total, pairs = _steps(image, mask, mask)
    controls = [_steps(image, mask, labels) for labels in _displaced(mask)]
    control_pairs = sum(count for _, count in controls)
    if min(pairs, control_pairs) < _FEW:
        return None
    contrast = total / pairs
    displaced = sum(control_total for control_total, _ in controls) / control_pairs
    return {
        "contrast": round(contrast, 2),
        "displaced": round(displaced, 2),
        "ratio": round(contrast / max(displaced, 1e-3), 3),
    }


def _displaced(mask: Array) -> Iterator[Array]:
    """Yield copies of `mask` moved along y and z."""
    for axis in (1, 2):
        for shift in _APART:
            yield np.roll(mask, shift, axis)


def _steps(image: Array, mask: Array, labels: Array) -> tuple[float, int]:
    """Return the sum of grey-level steps where `labels` meet within `mask`, and their number."""
    total, count = 0.0, 0
    for axis in (1, 2):
        grey, inside, label = (np.moveaxis(a, axis, 0) for a in (image, mask > 0, labels))
        meet = (label[1:] != label[:-1]) & (label[1:] > 0) & (label[:-1] > 0)
        meet &= inside[1:] & inside[:-1]
        total += float(np.abs(grey[1:] - grey[:-1])[meet].sum())
        count += int(meet.sum())
    return total, count


def organs(variant: Variant, image: Array, mask: Array) -> dict[str, dict[str, Any]]:
    """Return the median of each organ of the variant's `reference` that is in `mask`.

    `low` and `high` are the range of real scans, in HU; `within`: as is_outlier in
    scripts/quality_check.py of NV-Generate-CTMR. A variant without reference has no organs.
    """
    reference = variant.get("reference", {})
    if not reference:
        return {}
    lowest, levels = int(image.min()), int(image.max()) - int(image.min()) + 1
    counts = np.zeros((256, levels), np.int64)
    measured = np.zeros(256, bool)
    measured[[label for organ in reference.values() for label in organ["labels"]]] = True
    for plane, labels in zip(image, mask, strict=True):  # an index takes eight bytes a voxel
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
