"""Compare the distance of synthetic from real volumes with the distance among real volumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from . import features
from .distances import Moments, frechet, gaussian_sums, kernel_sums
from .sides import Floats, Side

Group = NDArray[np.intp]
Measure = Callable[[Group, Group], float]

_MOST = 400  # most volumes of a side, drawn at random, whose halves are compared
_HALVES = 100
_PERMUTATIONS = 200


@dataclass(frozen=True)
class Distance:
    """A distance of the synthetic set to the real one.

    `value` is the distance between all volumes. `synthetic` is the distance of half of the
    synthetic volumes from half of the real volumes, and `real` the distance of the other half of
    the real volumes from the same half: median, 5th and 95th percentile over random halves. Both
    use the same number of volumes, because FID depends on it. `p` is the p-value of a permutation
    test: the share of random exchanges of real and synthetic volumes with an equally large
    distance.
    """

    value: float
    synthetic: tuple[float, float, float]
    real: tuple[float, float, float]
    p: float

    @property
    def ratio(self) -> float:
        """The median distance of synthetic volumes divided by that of real volumes."""
        return max(self.synthetic[0], 0.0) / max(self.real[0], 1e-9)


@dataclass(frozen=True)
class Realism:
    """FID and KID of slices, as means over three planes, and MMD of volumes.

    `groups` has the FID of each group of features alone. KID is the squared MMD with a cubic
    kernel. `mmd` is the squared MMD, with a Gaussian kernel, of the mean features of each volume.
    """

    fid: Distance
    kid: Distance
    mmd: Distance
    groups: Mapping[str, Distance] = field(default_factory=dict)


def realism(real: Side, synthetic: Side, seed: int = 0, *, network: bool = False) -> Realism:
    """Return the distances of slices in 2.5D: the mean of the distances in each plane.

    The method is that of upstream's evaluation, but with `Side.features`. Each side needs at least
    four volumes. Halves are drawn without replacement, because a bootstrap that repeats volumes
    would enlarge both distances.
    """
    generator = np.random.default_rng(seed)
    own, others = (_some(side, generator) for side in (synthetic, real))
    pooled = np.concatenate([synthetic.features[own], real.features[others]])
    one, other = np.arange(len(own)), np.arange(len(own), len(pooled))
    sums = [kernel_sums(pooled[:, plane]) for plane in range(3)]
    gaussian = gaussian_sums(np.concatenate([synthetic.means[own], real.means[others]]))

    def kid(a: Group, b: Group) -> float:
        return float(np.mean([plane.mmd(a, b) for plane in sums]))

    def compared(part: Floats, whole: float) -> Distance:
        return _compare(_fid(part), one, other, np.random.default_rng(seed), whole)

    groups = {}
    if not network:
        start = 0
        for name, members in features.GROUPS.items():
            columns = slice(start, start + len(members))
            start += len(members)
            value = _all(synthetic.features[..., columns], real.features[..., columns])
            groups[name] = compared(pooled[..., columns], value)
    return Realism(
        compared(pooled, _all(synthetic.features, real.features)),
        _compare(kid, one, other, np.random.default_rng(seed), kid(one, other)),
        _compare(gaussian.mmd, one, other, np.random.default_rng(seed), gaussian.mmd(one, other)),
        groups,
    )


def _some(side: Side, generator: np.random.Generator) -> Group:
    return np.sort(generator.permutation(len(side))[:_MOST])


def _all(one: Floats, other: Floats) -> float:
    """Return the FID of features `[V, 3, S, F]`, mean over planes; one plane is in memory."""
    values = []
    for plane in range(3):
        moments = []
        for rows in (one, other):
            seen = Moments.empty(rows.shape[-1])
            for volume in rows[:, plane]:
                seen.add(volume)
            moments.append(seen)
        values.append(frechet(*moments))
    return float(np.mean(values))


def _fid(rows: Floats) -> Measure:
    """Return a function for the FID, mean over planes, of two groups of volumes.

    `rows` are the features `[V, 3, S, F]` of all volumes.
    """
    wide = rows.astype(np.float64)
    totals = wide.sum(2)
    outer = np.einsum("vpsf,vpsg->vpfg", wide, wide, optimize=True)
    slices = rows.shape[2]

    def measure(one: Group, other: Group) -> float:
        values = []
        for plane in range(3):
            moments = [
                Moments(
                    slices * len(group), totals[group, plane].sum(0), outer[group, plane].sum(0)
                )
                for group in (one, other)
            ]
            values.append(frechet(*moments))
        return float(np.mean(values))

    return measure


def _compare(
    measure: Measure, one: Group, other: Group, generator: np.random.Generator, value: float
) -> Distance:
    half = min(len(one), len(other) - len(other) // 2, len(other) // 2)
    synthetic, real = [], []
    for _ in range(_HALVES):
        shuffled = generator.permutation(other)
        mine = generator.permutation(one)[:half]
        first, second = shuffled[:half], shuffled[half : 2 * half]
        synthetic.append(measure(mine, second))
        real.append(measure(first, second))
    pooled, observed = np.concatenate([one, other]), measure(one, other)
    extreme = 0
    for _ in range(_PERMUTATIONS):
        mixed = generator.permutation(pooled)
        extreme += measure(mixed[: len(one)], mixed[len(one) :]) >= observed
    return Distance(
        value, spread(synthetic), spread(real), float((extreme + 1) / (_PERMUTATIONS + 1))
    )


def spread(values: list[float]) -> tuple[float, float, float]:
    """Return the median, the 5th and the 95th percentile."""
    low, middle, high = np.percentile(values, [5, 50, 95]).tolist()
    return middle, low, high
