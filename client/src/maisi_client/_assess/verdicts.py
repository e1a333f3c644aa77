"""Answer questions about a dataset: a level and a sentence from its measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .bias import Bias, Quantity
from .diversity import Diversity
from .obedience import FAITHFUL
from .privacy import Privacy
from .realism import Realism
from .summary import Obedience
from .use import Use

LEVELS = ("good", "check", "poor", "unknown")

# With these limits, tests/client/assess/test_damage.py distinguishes damaged from intact volumes.
_FAR, _NEAR, _SAME = 3.0, 1.5, 1.2  # ratios of the FID to the FID of real volumes
_LEVEL = 0.01  # p-value of a significant difference
_SIMILAR, _COLLAPSED = 0.05, 0.15  # MS-SSIM above the real set's interval; blur also increases it
_FEW = 10  # least volumes of a side; with fewer, the level is unknown
_USELESS = 0.7  # fraction of the Dice coefficient after training on real volumes
_SHARE = 0.05  # share of duplicates, or of volumes that do not follow their masks


@dataclass(frozen=True)
class Verdict:
    """The answer to a question: `level` is one of `LEVELS`, and `sentence` gives the reason."""

    question: str
    level: str
    sentence: str


def of_realism(result: Realism | None, sizes: Sequence[int]) -> Verdict:
    """Return the verdict on whether the volumes look real."""
    question = "Are the volumes realistic?"
    if len(sizes) == 1:
        return Verdict(question, "unknown", "Not measured: no real volumes were given (--real).")
    few = _too_few(sizes)
    if result is None or few:
        return Verdict(question, "unknown", few)
    ratio, p = result.fid.ratio, min(result.fid.p, result.kid.p)
    worst = max(result.groups, key=lambda name: result.groups[name].ratio, default="")
    where = f"; {worst} differs most" if worst and result.groups[worst].ratio > _NEAR else ""
    if ratio < _SAME or (p >= _LEVEL and ratio < _FAR):
        return Verdict(
            question,
            "good",
            f"The FID of synthetic slices is {ratio:.1f} times that of other real slices, within"
            f" the expected range (p = {p:.2f}).",
        )
    level = "poor" if ratio >= _FAR and p < _LEVEL else "check"
    return Verdict(
        question,
        level,
        f"The FID of synthetic slices is {ratio:.1f} times that of other real slices"
        f" (p = {p:.3f}){where}.",
    )


def of_diversity(result: Diversity, sizes: Sequence[int]) -> Verdict:
    """Return the verdict on whether the volumes differ from each other as real volumes do."""
    question = "Are the volumes diverse?"
    if few := _too_few(sizes):
        return Verdict(question, "unknown", few)
    parts, level = [], "good"
    if result.duplicated > 0:
        level = "poor" if result.duplicated > _SHARE else "check"
        parts.append(f"{result.duplicated:.0%} of the volumes have a near copy in the set")
    if result.real is not None and result.synthetic.low > result.real.high + _SIMILAR:
        same = result.synthetic.low > result.real.high + _COLLAPSED
        level = "poor" if same else max(level, "check", key=_rank)
        parts.append(
            f"pairs are more similar (MS-SSIM {result.synthetic.mean:.2f}) than pairs of real"
            f" volumes ({result.real.mean:.2f})"
        )
    if result.halves:
        mine, real = (result.halves[role]["coverage"] for role in ("synthetic", "real"))
        # A diverse set can also have a low coverage, if it is far from the real set.
        near = result.halves["synthetic"]["precision"][0] >= 0.5
        if near and mine[0] < real[1] - 0.1:
            level = "poor" if mine[0] < 0.5 * real[0] else max(level, "check", key=_rank)
            parts.append(
                f"the volumes cover {mine[0]:.0%} of the real set, other real volumes {real[0]:.0%}"
            )
    if parts:
        return Verdict(question, level, _sentence(parts))
    if result.real is None:
        return Verdict(
            question,
            "good",
            "No volume has a near copy in the set. There is no real set to compare with.",
        )
    return Verdict(
        question,
        "good",
        f"Pairs are no more similar (MS-SSIM {result.synthetic.mean:.2f}) than pairs of real"
        f" volumes ({result.real.mean:.2f}), and no volume has a near copy in the set.",
    )


def of_obedience(result: Obedience | None) -> Verdict:
    """Return the verdict on whether the volumes follow their labels."""
    question = "Do the volumes follow their labels?"
    if result is None:
        return Verdict(question, "unknown", "Not measured: the volumes have no labels.")
    share = result.unfaithful / max(result.measured, 1)
    if not result.measured:
        return Verdict(
            question, "unknown", "Not measured: no volume has enough voxels where labels meet."
        )
    shift = result.shift_mm
    wide = shift is not None and shift > result.voxel_mm
    if result.unfaithful or wide or result.organs_outside:
        parts = []
        if result.unfaithful:
            parts.append(
                f"{result.unfaithful} of {result.measured} volumes do not follow their labels:"
                f" their ratio of borders is below {FAITHFUL}"
            )
        if wide:
            parts.append(f"the median shift of edges is {shift:.1f} mm, more than a voxel")
        if result.organs_outside:
            parts.append(f"medians of organs outside the real range: {result.organs_outside}")
        poor = share > _SHARE or wide
        return Verdict(question, "poor" if poor else "check", _sentence(parts))
    edges = "" if shift is None else f"; the median shift of edges is {shift:.1f} mm"
    return Verdict(question, "good", f"All {result.measured} measured volumes do{edges}.")


def of_privacy(result: Privacy | None, sizes: Sequence[int]) -> Verdict:
    """Return the verdict on whether volumes are closer to the training set than real volumes."""
    question = "Do the volumes repeat patients of the training set?"
    if result is None:
        return Verdict(
            question, "unknown", "Not measured: no training set was given (--train-set)."
        )
    suspicious = [pair for pair in result.pairs if pair.suspicious]
    if suspicious:
        names = ", ".join(f"{pair.name} (like {pair.training})" for pair in suspicious[:5])
        return Verdict(
            question,
            "poor",
            f"Suspicious: {names}. Each is more similar to a training volume than any real one is.",
        )
    if few := _too_few(sizes):
        return Verdict(question, "unknown", few)
    p = min(result.picture.p, result.features.p)
    if p < _LEVEL:
        return Verdict(
            question,
            "check",
            "No single volume is suspicious, but the set is closer to the training set than real"
            f" volumes are (p = {p:.3f}).",
        )
    other = "held-out real volumes" if result.held_out else "training volumes to each other"
    return Verdict(
        question,
        "good",
        f"No volume is suspicious, and the set is no closer to the training set than {other}. This"
        " does not prove privacy.",
    )


def of_bias(result: Bias, has_real: bool, sizes: Sequence[int]) -> Verdict:
    """Return the verdict on quantities that are over- or under-represented."""
    question = "What is over- or under-represented?"
    if not has_real:
        return Verdict(question, "unknown", "Not measured: no real volumes were given (--real).")
    if few := _too_few(sizes):
        return Verdict(question, "unknown", few)
    different = [one for one in result.quantities if one.differs]
    absent = [one for one in result.presence if abs(one.synthetic - one.real) > 0.3]
    if not different and not absent:
        return Verdict(
            question,
            "good",
            "No measured quantity is distributed differently than in real volumes.",
        )
    different.sort(key=lambda one: -(one.distance or 0))
    parts = [_difference(one) for one in different[:3]]
    parts += [
        f"{one.name} is present in {one.synthetic:.0%} instead of {one.real:.0%}"
        for one in absent[:2]
    ]
    more = len(different) + len(absent) - len(parts)
    if more:
        parts.append(f"{more} more")
    return Verdict(
        question, "check", _sentence(["compared with real volumes, " + "; ".join(parts)])
    )


def of_use(result: Use | None) -> Verdict:
    """Return the verdict on whether a network trained on the volumes works on real volumes."""
    question = "Does a network trained on the volumes work on real ones?"
    if result is None:
        return Verdict(
            question,
            "unknown",
            "Not measured: this needs --train, --real, and labels of the same names in both sets.",
        )
    own, real, both = result.synthetic, result.real, result.both
    sentence = (
        f"Dice on {result.tested} held-out real volumes: {own.mean:.2f} after training on synthetic"
        f" volumes, {real.mean:.2f} on real ones, {both.mean:.2f} on both."
    )
    if result.steps < result.planned:
        stopped = f" The time ended after {result.steps} of {result.planned} steps."
        return Verdict(question, "unknown", sentence + stopped)
    level = "good" if own.high >= real.low else "check"
    return Verdict(question, "poor" if own.mean < _USELESS * real.mean else level, sentence)


def _difference(one: Quantity) -> str:
    own, real = float(np.median(one.synthetic)), float(np.median(one.real))
    if own == real:
        return f"{one.name} has the same median and a different spread"
    return f"{one.name} is {'greater' if own > real else 'smaller'}"


def _too_few(sizes: Sequence[int]) -> str:
    smallest = min(sizes)
    if smallest >= _FEW:
        return ""
    return f"Too few volumes: {smallest}; at least {_FEW} are needed."


def _rank(level: str) -> int:
    return LEVELS.index(level)


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts) + "."
    return text[:1].upper() + text[1:]
