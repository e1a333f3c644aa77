"""Measure whether synthetic volumes differ from each other as much as real volumes do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from .neighbours import NEAREST, Overlap, nearest, overlap
from .realism import spread
from .sides import Side
from .structure import ms_ssim

_PAIRS = 30  # random pairs of each side that are compared
_HALVES = 20
_BOOTSTRAPS = 500
# Two volumes are duplicates below this multiple of the least distance of two real volumes or,
# without real volumes, of the median distance of a synthetic volume to its nearest neighbour.
_CLOSER = 0.5
_ALONE = 0.1
_SAME = 1e-3  # of the largest distance; a closer pair is one volume that was saved twice


@dataclass(frozen=True)
class Similarity:
    """The mean MS-SSIM of random pairs of a set, and its 95 % interval by bootstrap."""

    mean: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class Duplicate:
    """Two volumes of the set and the `distance` of their pictures; 0 means equal pictures."""

    one: str
    other: str
    distance: float


@dataclass(frozen=True)
class Diversity:
    """The similarity within the sets, the overlap of the sets, and duplicates in the synthetic set.

    `halves` are precision, recall, density and coverage of half of the synthetic set against half
    of the real set, and of the two halves of the real set: median, 5th and 95th percentile.
    `floor` is the distance below which two volumes count as duplicates. `same_files` is the number
    of volumes with the same bytes as another one.
    """

    synthetic: Similarity
    real: Similarity | None
    overlap: Overlap | None
    halves: dict[str, dict[str, tuple[float, float, float]]]
    duplicates: list[Duplicate]
    duplicated: float
    floor: float
    same_files: int


def diversity(synthetic: Side, real: Side | None, seed: int = 0) -> Diversity:
    """Return the diversity of a set, compared with that of the real set if there is one."""
    generator = np.random.default_rng(seed)
    floor = _floor(synthetic, real)
    pairs, share = duplicates(synthetic, floor)
    digests = Counter(facts["sha256"]["image"] for facts in synthetic.facts)
    return Diversity(
        similarity(synthetic, generator),
        similarity(real, generator) if real else None,
        _overlap(real, synthetic),
        _halves(real, synthetic, generator),
        pairs,
        share,
        floor,
        sum(number for number in digests.values() if number > 1),
    )


def similarity(side: Side, generator: np.random.Generator) -> Similarity:
    """Return the similarity of random pairs of coarse volumes, without repeated pairs."""
    count = len(side)
    every = count * (count - 1) // 2
    chosen: set[tuple[int, int]] = set()
    while len(chosen) < min(_PAIRS, every):
        one, other = sorted(generator.choice(count, 2, replace=False).tolist())
        chosen.add((one, other))
    values = np.array([ms_ssim(side.coarse(a), side.coarse(b)) for a, b in sorted(chosen)])
    means = [generator.choice(values, len(values)).mean() for _ in range(_BOOTSTRAPS)]
    low, high = np.percentile(means, [2.5, 97.5]).tolist()
    return Similarity(float(values.mean()), low, high, len(values))


def duplicates(side: Side, floor: float) -> tuple[list[Duplicate], float]:
    """Return pairs of volumes at most `floor` apart, and the share of volumes in such pairs.

    Each volume is compared with its nearest neighbour. The distance is the root mean square of the
    difference of their pictures. The closest pair comes first.
    """
    distances, indices = nearest(side.pictures, side.pictures, count=1, own=True)
    scaled = distances[:, 0] / np.sqrt(side.pictures.shape[1])
    close = np.flatnonzero(scaled <= floor)
    pairs = {(min(a, b), max(a, b)): scaled[a] for a in close for b in [int(indices[a, 0])]}
    named = [
        Duplicate(side.names[a], side.names[b], float(distance))
        for (a, b), distance in sorted(pairs.items(), key=lambda item: float(item[1]))
    ]
    return named, float(len(close) / len(side))


def _floor(synthetic: Side, real: Side | None) -> float:
    side, share = (real, _CLOSER) if real else (synthetic, _ALONE)
    distances, _ = nearest(side.pictures, side.pictures, count=1, own=True)
    different = distances[distances > _SAME * distances.max()]
    if not different.size:  # all volumes are the same
        return 0.0
    typical = np.min(different) if real else np.median(different)
    return share * float(typical) / float(np.sqrt(side.pictures.shape[1]))


def _overlap(real: Side | None, synthetic: Side) -> Overlap | None:
    if real is None or min(len(real), len(synthetic)) <= NEAREST:
        return None
    return overlap(real.means, synthetic.means)


def _halves(
    real: Side | None, synthetic: Side, generator: np.random.Generator
) -> dict[str, dict[str, tuple[float, float, float]]]:
    half = 0 if real is None else min(len(real) // 2, len(synthetic))
    if real is None or half <= NEAREST:
        return {}
    against: dict[str, list[Overlap]] = {"synthetic": [], "real": []}
    for _ in range(_HALVES):
        order = generator.permutation(len(real))
        base = real.means[order[:half]]
        against["real"].append(overlap(base, real.means[order[half : 2 * half]]))
        mine = generator.permutation(len(synthetic))[:half]
        against["synthetic"].append(overlap(base, synthetic.means[mine]))
    fields = ("precision", "recall", "density", "coverage")
    return {
        role: {name: spread([getattr(one, name) for one in found]) for name in fields}
        for role, found in against.items()
    }
