"""Measure how well a volume follows its labels: borders, contrasts, edges, and organs of CT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
_FAR = 1e6  # mm between planes that are not neighbours
_FEW = 100  # least pairs of voxels for a meaningful mean
_REACH = 4  # voxels of the profile on each side of an edge
_VISIBLE = 0.5  # least contrast, in standard deviations, of an edge with a measurable position
# MAISI's labels and the range of the median HU of each organ in real scans, from the table in
# scripts/quality_check.py of NV-Generate-CTMR (also in export/variants/rflow-ct.toml).
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
    """The contrast and the edge of a label in its volume.

    `voxels` is the number of voxels of the label. `contrast` is the difference of the mean grey
    levels within 4 voxels inside and outside of the label's edge, in standard deviations of both.
    `shift_mm` is the distance of the image's edge from the label's edge, positive if the image's
    edge is outside of the label. It is None if the contrast is too low for an edge.
    """

    voxels: int
    contrast: float
    shift_mm: float | None


def borders(image: Greys, labels: Labels) -> float | None:
    """Return the ratio of borders of a volume; None if too few voxels of labels meet.

    The ratio is the mean step in grey level where labels meet, divided by the mean step where
    displaced labels meet. It is 1 for a volume that ignores its labels, and at least `FAITHFUL` for
    a volume that follows them. The server's report has the same measure
    (docs/how-to/generation.md). `image` and `labels` are `[X, Y, Z]`. Steps along Y and Z count,
    except for steps to the background.
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


def each_label(
    image: Greys, labels: Labels, spacing: Spacing, apart: bool = False
) -> dict[int, LabelFidelity]:
    """Return the fidelity of each label of a volume `[X, Y, Z]`; `spacing` in mm.

    With `apart`, the planes along X are not neighbours, and distances are measured within them.

    Each voxel counts as inside of its own label, and as outside of the label across the nearest
    border, at the same distance. The edge of the image is at the distance where the mean grey level
    is halfway between inside and outside. The background has no entry, but its voxels count as
    outside of labels.
    """
    axes = (1, 2) if apart else (0, 1, 2)
    unit = float(np.mean([spacing[axis] for axis in axes]))
    border, across = _borders(labels, axes)
    if not border.any():
        return {}
    sampling = (_FAR, *spacing[1:]) if apart else spacing
    distance, nearest = ndimage.distance_transform_edt(~border, sampling, return_indices=True)
    distance = distance / unit + 0.5  # the border is halfway between two voxels
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


def _borders(labels: Labels, axes: Sequence[int]) -> tuple[NDArray[np.bool_], Labels]:
    """Return a mask of the voxels with another label beside them along `axes`, and that label."""
    border, across = np.zeros(labels.shape, bool), np.zeros_like(labels)
    for axis in axes:
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
    """Return the fidelity of a label from sums over its voxels.

    The sums are binned by the distance from the edge in steps of one voxel, from the inside to the
    outside. `unit` is the size of a voxel in mm.
    """
    sides = slice(0, _REACH), slice(_REACH, None)
    inside, outside = (sums[side].sum() / counts[side].sum() for side in sides)
    variances = [
        squares[side].sum() / counts[side].sum() - mean**2
        for side, mean in zip(sides, (inside, outside), strict=True)
    ]
    contrast = float(abs(inside - outside) / max(np.sqrt(max(sum(variances), 0) / 2), 1e-6))
    frequent = counts >= 3
    shift = None
    if contrast >= _VISIBLE and frequent.sum() >= 4:
        profile, places = sums[frequent] / counts[frequent], distances[frequent] / counts[frequent]
        place = _crossing(profile, places)
        shift = None if place is None else round(place * unit, 3)
    return LabelFidelity(voxels, round(contrast, 4), shift)


def _crossing(profile: NDArray[np.float64], places: NDArray[np.float64]) -> float | None:
    """Return the position, nearest to 0, where a profile is halfway between its two ends."""
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
    """Return the median HU of each of `ORGANS` that has a label; labels are matched by name."""
    ids = {label: label_id(names[label]) for label in np.unique(labels).tolist() if label in names}
    medians = {}
    for organ, (members, _, _) in ORGANS.items():
        own = [label for label, id_ in ids.items() if id_ in members]
        if own:
            medians[organ] = float(np.median(raw[np.isin(labels, own)]))
    return medians
