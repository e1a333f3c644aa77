"""Summarise how the volumes of a set follow their labels; the worst cases come first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .obedience import FAITHFUL, ORGANS
from .sides import Side

_WORST = 8


@dataclass(frozen=True)
class LabelRow:
    """The medians over all volumes of a label's contrast and of the shift of its edge in mm.

    `real_contrast` is the median contrast in the real set, or None if the set does not have this
    label. `shift_spread_mm` is the median absolute deviation of the shift.
    """

    name: str
    volumes: int
    contrast: float
    real_contrast: float | None
    shift_mm: float | None
    shift_spread_mm: float | None


@dataclass(frozen=True)
class Case:
    """A volume and its ratio of borders (`obedience.borders`)."""

    name: str
    borders: float
    index: int


@dataclass(frozen=True)
class Organ:
    """The median HU of an organ in each volume, and the range in real scans."""

    name: str
    low: float
    high: float
    medians: list[float]
    outside: int


@dataclass(frozen=True)
class Obedience:
    """Measures of how the volumes of a set follow their labels.

    `measured` is the number of volumes with a ratio of borders, and `unfaithful` the number of
    those with a ratio below `FAITHFUL`. `reported` counts the results in the server's reports:
    faithful, unfaithful, or none. `set_apart` is the number of volumes that `maisi dataset` moved
    to `unfaithful/`. `shift_mm` is the median absolute shift of all labels, and `real_shift_mm`
    that of the real set. `voxel_mm` is the mean side of a voxel.
    """

    measured: int
    unfaithful: int
    set_apart: int
    reported: Mapping[str, int]
    borders: list[float]
    real_borders: list[float]
    shift_mm: float | None
    real_shift_mm: float | None
    voxel_mm: float
    labels: list[LabelRow]
    organs: list[Organ]
    organs_outside: int
    worst: list[Case]


def obedience(
    synthetic: Side,
    real: Side | None,
    names: tuple[Mapping[int, str], ...],
    set_apart: int,
) -> Obedience | None:
    """Return how a set follows its labels; None if it has no labels.

    `names` has the label names of each side by id. `set_apart` is the number of volumes in
    `unfaithful/`.
    """
    ratios, voxels = {}, []
    for index, facts in enumerate(synthetic.facts):
        if "borders" in facts:
            ratios[index] = facts["borders"]
            voxels.append(np.mean(facts["spacing"]))
    if not ratios:
        return None
    measured = {i: float(ratio) for i, ratio in ratios.items() if ratio is not None}
    words = {True: "faithful", False: "unfaithful", None: "without an answer"}
    reported = [
        words.get(facts.get("reported_faithful"), "without an answer") for facts in synthetic.facts
    ]
    rows = _label_rows(synthetic, names[0])
    others = {row.name: row.contrast for row in _label_rows(real, names[1])} if real else {}
    organs = _organs(synthetic)
    return Obedience(
        len(measured),
        sum(ratio < FAITHFUL for ratio in measured.values()),
        set_apart,
        {word: reported.count(word) for word in words.values()},
        list(measured.values()),
        [float(f["borders"]) for f in real.facts if f.get("borders") is not None] if real else [],
        _amount(synthetic),
        _amount(real) if real else None,
        float(np.mean(voxels)),
        [
            LabelRow(
                row.name,
                row.volumes,
                row.contrast,
                others.get(row.name),
                row.shift_mm,
                row.shift_spread_mm,
            )
            for row in rows
        ],
        organs,
        sum(organ.outside for organ in organs),
        [
            Case(synthetic.names[index], ratio, index)
            for index, ratio in sorted(measured.items(), key=lambda item: item[1])[:_WORST]
        ],
    )


def _amount(side: Side) -> float | None:
    shifts = [
        abs(label["shift_mm"])
        for facts in side.facts
        for label in facts.get("labels", {}).values()
        if label["shift_mm"] is not None
    ]
    return float(np.median(shifts)) if shifts else None


def _label_rows(side: Side, names: Mapping[int, str]) -> list[LabelRow]:
    contrasts: dict[int, list[float]] = defaultdict(list)
    shifts: dict[int, list[float]] = defaultdict(list)
    for facts in side.facts:
        for key, label in facts.get("labels", {}).items():
            contrasts[int(key)].append(label["contrast"])
            if label["shift_mm"] is not None:
                shifts[int(key)].append(label["shift_mm"])
    rows = []
    for id_, values in sorted(contrasts.items()):
        shift = float(np.median(shifts[id_])) if shifts[id_] else None
        spread = float(np.median(np.abs(np.array(shifts[id_]) - shift))) if shift is not None else 0
        rows.append(
            LabelRow(
                names.get(id_, f"label {id_}"),
                len(values),
                float(np.median(values)),
                None,
                shift,
                None if shift is None else spread,
            )
        )
    return sorted(rows, key=lambda row: row.contrast)


def _organs(side: Side) -> list[Organ]:
    organs = []
    for name, (_, low, high) in ORGANS.items():
        medians = [facts["organs"][name] for facts in side.facts if name in facts.get("organs", {})]
        if medians:
            outside = sum(not low <= median <= high for median in medians)
            organs.append(Organ(name, low, high, medians, outside))
    return organs
