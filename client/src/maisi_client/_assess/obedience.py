"""How well a volume follows its labels: borders, each label's contrast and edge, organs of CT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .._grid import Spacing
from .._label_names import label_id
from .harmonising import Greys

Labels: TypeAlias = NDArray[np.int32]

# Least ratio of borders of a volume that follows its mask (docs/how-to/generation.md).
FAITHFUL = 1.25
_APART = (-7, -4, 4, 7)  # voxels of displacement of the borders; an edge is narrower
_FEW = 100  # pairs of voxels, below which a mean says nothing
_REACH = 4  # voxels on both sides of an edge that its profile shows
_VISIBLE = 0.5  # standard deviations between both sides, from which on an edge has a place
# Median HU of real scans: the table of scripts/quality_check.py of NV-Generate-CTMR, as it is in
# export/variants/rflow-ct.toml. Labels are MAISI's.
ORGANS: Mapping[str, tuple[tuple[int, ...], float, float]] = {
    "liver": ((1,), -21.6, 162.0),
    "spleen": ((3,), -43.1, 184.1),
    "pancreas": ((4,), -56.6, 149.5),
    "kidney": ((5, 14), -130.6, 267.3),
    "lung": ((28, 29, 30, 31), -1088.6, -367.0),
    "bone": ((*range(33, 57), *range(63, 98), 120, 122, 127), 71.4, 1000.0),
    "brain": ((22,), -951.0, 369.5),
}


@dataclass(frozen=True)
class LabelFidelity:
    """How a label shows in its volume.

    `contrast` is the difference of the mean greys within 4 voxels inside and outside of its edge,
    in standard deviations of both. `shift_mm` is how far outside of the label's edge that of the
    image is, None where the contrast is too low for an edge. `voxels` are those of the label.
    """

    voxels: int
    contrast: float
    shift_mm: float | None


def borders(image: Greys, labels: Labels) -> float | None:
    """Return the mean step in grey where labels meet over that where displaced labels meet.

    `image` and `labels` are `[X, Y, Z]`. 1 is a volume that ignores its labels, from `FAITHFUL` on
    it follows them: the measure of the server's report (docs/how-to/generation.md). Steps along
    Y and Z count, without those to the background. None where too few labels meet.
    """
    total, pairs = _steps(image, labels, labels)
    displaced = [
        _steps(image, labels, np.roll(labels, shift, axis)) for axis in (1, 2) for shift in _APART
    ]
    control_pairs = sum(count for _, count in displaced)
    if min(pairs, control_pairs) < _FEW:
        return None
    control = sum(one for one, _ in displaced) / control_pairs
    return float(total / pairs / max(control, 1e-6))


def _steps(image: Greys, mask: Labels, labels: Labels) -> tuple[float, int]:
    """Return the sum of grey-level steps where `labels` meet within `mask`, and their number."""
    total, count = 0.0, 0
    for axis in (1, 2):
        grey, label = image.swapaxes(0, axis), labels.swapaxes(0, axis)
        inside = mask.swapaxes(0, axis) > 0
        meet = (label[1:] != label[:-1]) & (label[1:] > 0) & (label[:-1] > 0)
        meet &= inside[1:] & inside[:-1]
        total += float(np.abs(grey[1:] - grey[:-1])[meet].sum(dtype=np.float64))
        count += int(meet.sum())
    return total, count


def each_label(image: Greys, labels: Labels, spacing: Spacing) -> dict[int, LabelFidelity]:
    """Return how each label of a volume `[X, Y, Z]` shows; `spacing` in mm.

    A voxel is inside of its own label and outside of the one across the nearest border, at the
    same distance from it. The edge of the image is where the mean grey by that distance is halfway
    between inside and outside. Background has no entry, but is outside of others.
    """
    unit = float(np.mean(spacing))
    border, across = _borders(labels)
    if not border.any():
        return {}
    distance, nearest = ndimage.distance_transform_edt(~border, spacing, return_indices=True)
    distance = distance / unit + 0.5  # the surface lies between two voxels
    near = distance <= _REACH
    ids, own = np.unique(labels[near], return_inverse=True)
    other = np.searchsorted(ids, across[tuple(nearest[:, near])])
    places = np.concatenate([-distance[near], distance[near]])
    greys = np.tile(image[near].astype(np.float64), 2)
    bins = np.clip(np.floor(places).astype(np.intp) + _REACH, 0, 2 * _REACH - 1)
    index = np.concatenate([own.ravel(), other]) * 2 * _REACH + bins
    shape = (len(ids), 2 * _REACH)
    counts, means, squares, distances = (
        np.bincount(index, weights, len(ids) * 2 * _REACH).reshape(shape)
        for weights in (None, greys, greys**2, places)
    )
    voxels = np.bincount(labels.ravel())
    return {
        int(id_): _edge(int(voxels[id_]), counts[n], means[n], squares[n], distances[n], unit)
        for n, id_ in enumerate(ids)
        if id_ and min(counts[n, :_REACH].sum(), counts[n, _REACH:].sum()) >= 8
    }


def _borders(labels: Labels) -> tuple[NDArray[np.bool_], Labels]:
    """Return which voxels have a neighbour of another label, and one such label."""
    border, across = np.zeros(labels.shape, bool), np.zeros_like(labels)
    for axis in range(3):
        for step in (1, -1):
            here, there = (
                (slice(None),) * axis + (slice(max(sign, 0), labels.shape[axis] + min(sign, 0)),)
                for sign in (step, -step)
            )
            differs = (labels[here] != labels[there]) & ~border[here]
            across[here][differs] = labels[there][differs]
            border[here] |= differs
    return border, across


def _edge(
    voxels: int,
    counts: NDArray[np.int64],
    sums: NDArray[np.float64],
    squares: NDArray[np.float64],
    distances: NDArray[np.float64],
    unit: float,
) -> LabelFidelity:
    """Return how a label shows, from sums over voxels by whole voxels of distance, inside first."""
    sides = slice(0, _REACH), slice(_REACH, None)
    inside, outside = (sums[side].sum() / counts[side].sum() for side in sides)
    variances = [
        squares[side].sum() / counts[side].sum() - mean**2
        for side, mean in zip(sides, (inside, outside), strict=True)
    ]
    contrast = float(abs(inside - outside) / max(np.sqrt(max(sum(variances), 0) / 2), 1e-6))
    known = counts >= 3
    shift = None
    if contrast >= _VISIBLE and known.sum() >= 4:
        profile, places = sums[known] / counts[known], distances[known] / counts[known]
        place = _crossing(profile, places)
        shift = None if place is None else round(place * unit, 3)
    return LabelFidelity(voxels, round(contrast, 4), shift)


def _crossing(profile: NDArray[np.float64], places: NDArray[np.float64]) -> float | None:
    """Return where a profile of greys is halfway between its two ends; the nearest to 0 counts."""
    ends = places <= -1, places >= 1
    if not (ends[0].any() and ends[1].any()):
        return None
    middle = (profile[ends[0]].mean() + profile[ends[1]].mean()) / 2
    above = profile > middle
    crossings = []
    for low in np.flatnonzero(above[1:] != above[:-1]):
        share = (middle - profile[low]) / (profile[low + 1] - profile[low])
        crossings.append(float(places[low] + share * (places[low + 1] - places[low])))
    return min(crossings, key=abs, default=None)


def organ_medians(raw: Greys, labels: Labels, names: Mapping[int, str]) -> dict[str, float]:
    """Return the median HU of each of `ORGANS` that the labels, by their names, have."""
    ids = {label: label_id(names[label]) for label in np.unique(labels).tolist() if label in names}
    medians = {}
    for organ, (members, _, _) in ORGANS.items():
        own = [label for label, id_ in ids.items() if id_ in members]
        if own:
            medians[organ] = float(np.median(raw[np.isin(labels, own)]))
    return medians
