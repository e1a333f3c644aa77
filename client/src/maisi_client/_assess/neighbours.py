"""Nearest neighbours: their distances, and precision, recall, density and coverage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Rows = NDArray[np.floating[Any]]

NEAREST = 5  # the radius of a ball is the distance to this neighbour; default of Naeem et al.
_BLOCK, _COLUMNS = 64, 512  # rows and columns of a block of distances


@dataclass(frozen=True)
class Overlap:
    """The overlap of two sets of features. Values are from 0 to 1; density may be larger.

    `precision` is the share of synthetic rows within a ball of the real set, and `recall` the share
    of real rows within a ball of the synthetic set (Kynkäänniemi et al., NeurIPS 2019). `density`
    is the mean number of real balls around a synthetic row, divided by the number of neighbours.
    `coverage` is the share of real balls with a synthetic row inside (Naeem et al., ICML 2020).
    """

    precision: float
    recall: float
    density: float
    coverage: float


def overlap(real: Rows, synthetic: Rows, nearest: int = NEAREST) -> Overlap:
    """Return the overlap of features `[N, F]` and `[M, F]`.

    The radius of a row's ball is the distance to its `nearest`-th neighbour. Both sets need more
    than `nearest` rows.
    """
    real_radii, own_radii = _radii(real, nearest), _radii(synthetic, nearest)
    hits = np.zeros(len(synthetic), np.int64)
    covered = np.zeros(len(real), bool)
    recalled = np.zeros(len(real), bool)
    for rows, distance in _blocks(synthetic, real):
        within = distance < real_radii
        hits[rows] = within.sum(1)
        covered |= (distance.min(0) < real_radii) if distance.size else False
        recalled |= (distance < own_radii[rows][:, None]).any(0)
    return Overlap(
        precision=float((hits > 0).mean()),
        recall=float(recalled.mean()),
        density=float(hits.mean() / nearest),
        coverage=float(covered.mean()),
    )


def nearest(
    rows: Rows, among: Rows, *, count: int = 2, own: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return distances and indices `[N, count]` of the nearest rows of `among` to each row.

    With `own`, both sets are the same, and a row is not its own neighbour. If `among` has too few
    rows, the missing distances are infinite.
    """
    distances = np.full((len(rows), count), np.inf)
    indices = np.zeros((len(rows), count), np.int64)
    for block, distance in _blocks(rows, among):
        if own:
            distance[np.arange(len(distance)), np.arange(block.start, block.stop)] = np.inf
        order = np.argsort(distance, axis=1, kind="stable")[:, :count]
        indices[block, : order.shape[1]] = order
        distances[block, : order.shape[1]] = np.take_along_axis(distance, order, 1)
    return distances, indices


def _radii(rows: Rows, count: int) -> NDArray[np.float64]:
    """Return the distance of each row to its `count`-th neighbour."""
    radii = np.empty(len(rows))
    for block, distance in _blocks(rows, rows):
        radii[block] = np.partition(distance, count, axis=1)[:, count]  # the 0th is the row itself
    return radii


def _blocks(rows: Rows, among: Rows) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield the distances of a block of rows to all of `among`.

    Blocks bound the memory, because `cdist` copies its inputs to float64.
    """
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(rows)))
        parts = [
            cdist(rows[block], among[column : column + _COLUMNS])
            for column in range(0, len(among), _COLUMNS)
        ]
        yield block, np.concatenate(parts, axis=1)
