"""Compare the distributions of grids, grey levels and labels in synthetic and real volumes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from .sides import Side

_LEVEL = 0.01  # significance level of all tests together, by Holm's rule
_FAR = 0.2  # Kolmogorov-Smirnov distance below which a difference is not reported
_AXES = ("right", "anterior", "superior")
_LEAST = 5  # a distribution is compared if both sides have at least this many volumes


@dataclass(frozen=True)
class Quantity:
    """The values of a quantity in the volumes of both sides, with its unit.

    `distance` is the Kolmogorov-Smirnov distance. `p` is its p-value after Holm's correction. Both
    are None without enough real volumes. `quarters` has the share of synthetic volumes in each
    quarter of the real distribution, from the smallest to the largest values.
    """

    name: str
    unit: str
    synthetic: list[float]
    real: list[float]
    distance: float | None
    p: float | None
    quarters: list[float]

    @property
    def differs(self) -> bool:
        """Whether the distributions differ significantly and by a reported amount."""
        return (
            self.p is not None
            and self.distance is not None
            and self.p < _LEVEL
            and self.distance >= _FAR
        )


@dataclass(frozen=True)
class Presence:
    """The share of volumes of each side that have a label."""

    name: str
    synthetic: float
    real: float


@dataclass(frozen=True)
class Bias:
    """Distributions of quantities, shares of volumes with each label, and counts of modalities."""

    quantities: list[Quantity]
    presence: list[Presence]
    modalities: Mapping[str, Mapping[str, int]]


def bias(synthetic: Side, real: Side | None, names: tuple[Mapping[int, str], ...]) -> Bias:
    """Return the distributions of both sides; `names` has the label names of each side by id."""
    sides = [synthetic] + ([real] if real else [])
    tables = [_table(side, names[number]) for number, side in enumerate(sides)]
    own, other = tables[0], tables[1] if real else {}
    keys = [key for key in own if not real or key in other]
    compared = [_compare(key, own[key], other.get(key, [])) for key in keys]
    labels = [_labels(side, names[number]) for number, side in enumerate(sides)]
    presence = []
    if real and labels[0] and labels[1]:
        for name in sorted(labels[0].keys() | labels[1].keys()):
            shares = labels[0].get(name, 0.0), labels[1].get(name, 0.0)
            presence.append(Presence(name, *shares))
    counted = {
        side.role: dict(Counter(str(f.get("reported_modality")) for f in side.facts))
        for side in sides
        if any(f.get("reported_modality") for f in side.facts)
    }
    return Bias(_corrected(compared), presence, counted)


def _table(side: Side, names: Mapping[int, str]) -> dict[tuple[str, str], list[float]]:
    """Return the values of each quantity, by its name and unit."""
    table: dict[tuple[str, str], list[float]] = {}
    for facts in side.facts:
        for axis, name in enumerate(_AXES):
            mm = facts["spacing"][axis]
            table.setdefault((f"field of view, {name}", "mm"), []).append(facts["shape"][axis] * mm)
            table.setdefault((f"spacing, {name}", "mm"), []).append(mm)
        table.setdefault(("foreground", "ml"), []).append(facts["foreground_ml"])
        table.setdefault(("median grey", "of the window"), []).append(facts["median"])
        table.setdefault(("contrast", "of the window"), []).append(facts["contrast"])
        for label, ml in facts.get("label_ml", {}).items():
            table.setdefault((names.get(int(label), f"label {label}"), "ml"), []).append(ml)
    return table


def _labels(side: Side, names: Mapping[int, str]) -> dict[str, float]:
    labelled = [facts["label_ml"] for facts in side.facts if facts.get("label_ml")]
    counts = Counter(
        names.get(int(label), f"label {label}") for labels in labelled for label in labels
    )
    return {name: number / len(labelled) for name, number in counts.items()}


def _compare(key: tuple[str, str], own: list[float], real: list[float]) -> Quantity:
    if min(len(own), len(real)) < _LEAST:
        return Quantity(*key, own, real, None, None, [])
    test: Any = stats.ks_2samp(own, real)
    limits = np.percentile(real, [25, 50, 75])
    # A value on a limit counts in equal parts for both quarters, for example if spacings are equal.
    low, high = (np.searchsorted(limits, own, side) for side in ("left", "right"))
    counts = np.zeros(4)
    for a, b in zip(low.tolist(), high.tolist(), strict=True):
        counts[a : b + 1] += 1 / (b - a + 1)
    shares = (counts / len(own)).round(3).tolist()
    return Quantity(*key, own, real, float(test.statistic), float(test.pvalue), shares)


def _corrected(quantities: Sequence[Quantity]) -> list[Quantity]:
    """Return the quantities with p-values by Holm's rule (Scand. J. Statistics 1979)."""
    order = sorted(
        (index for index, one in enumerate(quantities) if one.p is not None),
        key=lambda index: quantities[index].p or 0.0,
    )
    result, highest = list(quantities), 0.0
    for rank, index in enumerate(order):
        one = quantities[index]
        highest = max(highest, min(1.0, (one.p or 0.0) * (len(order) - rank)))
        result[index] = replace(one, p=highest)
    return result
