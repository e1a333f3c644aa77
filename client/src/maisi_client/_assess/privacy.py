"""Measure whether synthetic volumes are closer to the training set than held-out real volumes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .alignment import residual
from .neighbours import nearest
from .sides import Side

Distances = NDArray[np.float64]

_CLOSEST = 8  # pairs of each side that are aligned and compared as images
_PERMUTATIONS = 2000
_SAME = 1e-3  # of the median distance; a closer pair is one volume that was saved twice
_FLOOR = 5  # percentile of the real distances; 5 % of the synthetic ones are expected below it
_COPY = 0.6  # multiple of the least real residual; slightly warped, noisy copies have 0.2 to 0.4


@dataclass(frozen=True)
class Space:
    """Distances to the nearest training volume in one space of features.

    `ratio` is the median distance of the synthetic volumes divided by that of the held-out real
    volumes. `nearest` and `real_nearest` are the medians of the distance to the nearest training
    volume divided by the distance to the second nearest. `floor` is the 5th percentile of the real
    distances, and `below` the share of synthetic volumes closer than `floor`; 0.05 is expected. `p`
    is the p-value of a permutation test: the share of random exchanges of synthetic and real
    volumes with an equally small mean logarithm of the distance.
    """

    ratio: float
    nearest: float
    real_nearest: float
    floor: float
    below: float
    p: float
    synthetic: list[float]
    real: list[float]


@dataclass(frozen=True)
class Pair:
    """A volume and its nearest training volume, as images.

    `distance` is the distance of their pictures divided by the least real distance. `residual` is
    1 - correlation after affine alignment. `relative` is `residual` divided by the least real
    residual.
    """

    name: str
    training: str
    distance: float
    residual: float
    relative: float
    index: int
    training_index: int

    @property
    def suspicious(self) -> bool:
        """Whether the pair is closer than any real pair, and clearly more similar when aligned."""
        return self.distance < 1 and self.relative < _COPY


@dataclass(frozen=True)
class Privacy:
    """Nearest neighbours in the training set, of synthetic and of held-out real volumes.

    `pairs` are the closest pairs of a synthetic and a training volume, the most similar first.
    `held_out` is False if there are no held-out real volumes. Training volumes, each compared with
    the others, then replace them.
    """

    picture: Space
    features: Space
    pairs: list[Pair]
    real_residuals: list[float]
    held_out: bool


def privacy(synthetic: Side, train: Side, real: Side | None, seed: int = 0) -> Privacy:
    """Compare the distances of synthetic and of held-out real volumes to the training set.

    Without held-out real volumes, each training volume is compared with the other training volumes.
    The test of all distances is the test of data copying (Meehan et al., AISTATS 2020), as a
    permutation test. It finds volumes that resemble a training volume. It cannot show that the
    weights contain no training volume.
    """
    generator = np.random.default_rng(seed)
    base, own = (real, False) if real else (train, True)
    near = nearest(synthetic.pictures, train.pictures)
    near_real = nearest(base.pictures, train.pictures, own=own)
    rows = _apart(near_real[0])
    picture = _space(near[0], near_real[0][rows], generator)
    features = _space(
        nearest(synthetic.means, train.means)[0],
        nearest(base.means, train.means, own=own)[0][rows],
        generator,
    )
    closest = _closest(near_real[0][rows], near_real[1][rows])
    real_residuals = [
        residual(base.coarse(int(rows[row])), train.coarse(other)) for row, other, _ in closest
    ]
    least = max(float(near_real[0][rows, 0].min()), 1e-9)
    floor = max(min(real_residuals), 1e-6)
    pairs = []
    for index, other, distance in _closest(*near):
        value = residual(synthetic.coarse(index), train.coarse(other))
        names = synthetic.names[index], train.names[other]
        pairs.append(Pair(*names, distance / least, value, value / floor, index, other))
    pairs.sort(key=lambda pair: pair.relative)
    return Privacy(picture, features, pairs, real_residuals, not own)


def _apart(distances: Distances) -> NDArray[np.int64]:
    """Return the rows of real volumes that are not in the training set themselves.

    A volume that is in both, or twice in the training set, has a neighbour at no distance, and
    every copy would look like an ordinary pair.
    """
    nearest_ones = distances[:, 0]
    rows = np.flatnonzero(nearest_ones > _SAME * np.median(nearest_ones))
    return rows if rows.size else np.arange(len(distances))


def _closest(distances: Distances, indices: NDArray[np.int64]) -> list[tuple[int, int, float]]:
    """Return the rows closest to a training volume, with the training row and the distance."""
    order = np.argsort(distances[:, 0], kind="stable")[:_CLOSEST].tolist()
    return [(row, int(indices[row, 0]), float(distances[row, 0])) for row in order]


def _space(one: Distances, other: Distances, generator: np.random.Generator) -> Space:
    """Return a summary of the distances `[N, 2]` of synthetic volumes, and of `other` real ones."""
    medians = [float(np.median(distance[:, 0])) for distance in (one, other)]
    floor = float(np.percentile(other[:, 0], _FLOOR))
    return Space(
        medians[0] / max(medians[1], 1e-9),
        _second(one),
        _second(other),
        floor,
        float((one[:, 0] < floor).mean()),
        _permutation(one[:, 0], other[:, 0], generator),
        np.round(one[:, 0], 5).tolist(),
        np.round(other[:, 0], 5).tolist(),
    )


def _second(distances: Distances) -> float:
    return float(np.median(distances[:, 0] / np.maximum(distances[:, 1], 1e-9)))


def _permutation(synthetic: Distances, real: Distances, generator: np.random.Generator) -> float:
    logs = np.log(np.maximum(np.concatenate([synthetic, real]), 1e-9))
    count = len(synthetic)
    observed = logs[:count].mean() - logs[count:].mean()
    extreme = 0
    for _ in range(_PERMUTATIONS):
        mixed = generator.permutation(logs)
        extreme += mixed[:count].mean() - mixed[count:].mean() <= observed + 1e-12
    return float((extreme + 1) / (_PERMUTATIONS + 1))
