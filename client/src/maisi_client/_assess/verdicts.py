"""A sentence in plain words for each question about a dataset, from its measures."""

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

LEVELS = ("good", "look", "poor", "unknown")

# What the tests show to tell damage from an untouched half: tests/client/assess/test_damage.py.
_FAR, _NEAR, _SAME_FAR = 3.0, 1.5, 1.2  # times the distance of real from real
_LEVEL = 0.01  # p-value of a difference
_ALIKE, _SAME = 0.05, 0.15  # MS-SSIM above the real set's interval; blur adds some, too
_FEW = 10  # volumes of a side, below which nothing is judged
_USELESS = 0.7  # of the Dice that real volumes give
_SHARE = 0.05  # of volumes: duplicates, or those that do not follow their masks


@dataclass(frozen=True)
class Verdict:
    """The answer to a question: `level` is one of `LEVELS`, `sentence` says why."""

    question: str
    level: str
    sentence: str


def of_realism(result: Realism | None, sizes: Sequence[int]) -> Verdict:
    """Return whether the volumes look real."""
    question = "Are they real enough?"
    if result is None:
        return Verdict(question, "unknown", "Not measured: no real volumes were given (--real).")
    if few := _too_few(sizes):
        return Verdict(question, "unknown", few)
    ratio, p = result.fid.ratio, min(result.fid.p, result.kid.p)
    worst = max(result.groups, key=lambda name: result.groups[name].ratio, default="")
    where = f", most in {worst}" if worst and result.groups[worst].ratio > _NEAR else ""
    if ratio < _SAME_FAR or (p >= _LEVEL and ratio < _FAR):
        return Verdict(
            question,
            "good",
            f"Their slices differ from real ones no more than chance allows: {ratio:.1f} times as"
            f" far as real ones from each other (p = {p:.2f}).",
        )
    level = "poor" if ratio >= _FAR and p < _LEVEL else "look"
    return Verdict(
        question,
        level,
        f"Their slices are {ratio:.1f} times as far from real ones as real ones are from each"
        f" other{where} (p = {p:.3f}).",
    )


def of_diversity(result: Diversity, sizes: Sequence[int]) -> Verdict:
    """Return whether the volumes are all alike."""
    question = "Are they all alike?"
    if few := _too_few(sizes):
        return Verdict(question, "unknown", few)
    parts, level = [], "good"
    if result.duplicated > 0:
        level = "poor" if result.duplicated > _SHARE else "look"
        parts.append(f"{result.duplicated:.0%} of them have a near copy in the set")
    if result.real is not None and result.synthetic.low > result.real.high + _ALIKE:
        same = result.synthetic.low > result.real.high + _SAME
        level = "poor" if same else max(level, "look", key=_rank)
        parts.append(
            f"two of them are more alike (MS-SSIM {result.synthetic.mean:.2f}) than two real ones"
            f" ({result.real.mean:.2f})"
        )
    if result.halves:
        mine, real = (result.halves[role]["coverage"] for role in ("synthetic", "real"))
        # What lies outside of the real set covers nothing of it, however diverse.
        near = result.halves["synthetic"]["precision"][0] >= 0.5
        if near and mine[0] < real[1] - 0.1:
            level = "poor" if mine[0] < 0.5 * real[0] else max(level, "look", key=_rank)
            parts.append(
                f"they cover {mine[0]:.0%} of the real set, where real ones cover {real[0]:.0%}"
            )
    if parts:
        return Verdict(question, level, _sentence(parts))
    if result.real is None:
        return Verdict(question, "good", "No near copies among them; no real set to compare with.")
    return Verdict(
        question,
        "good",
        f"No: two of them are as different (MS-SSIM {result.synthetic.mean:.2f}) as two real ones"
        f" ({result.real.mean:.2f}), and none is a near copy of another.",
    )


def of_obedience(result: Obedience | None) -> Verdict:
    """Return whether the volumes follow their labels."""
    question = "Do they follow their labels?"
    if result is None:
        return Verdict(question, "unknown", "Not measured: the volumes have no labels.")
    share = result.unfaithful / max(result.measured, 1)
    if not result.measured:
        return Verdict(
            question, "unknown", "Not measured: in no volume do enough labels meet to tell."
        )
    shift = result.shift_mm
    wide = shift is not None and shift > result.voxel_mm
    if result.unfaithful or wide or result.organs_outside:
        parts = []
        if result.unfaithful:
            parts.append(
                f"{result.unfaithful} of {result.measured} do not follow their labels: the step in"
                f" grey where labels meet is below {FAITHFUL} times that elsewhere"
            )
        if wide:
            parts.append(f"edges are {shift:.1f} mm from those of the labels")
        if result.organs_outside:
            parts.append(f"{result.organs_outside} organs have a median outside of real HU")
        poor = share > _SHARE or wide
        return Verdict(question, "poor" if poor else "look", _sentence(parts))
    edges = "" if shift is None else f"; edges are {shift:.1f} mm from those of the labels"
    return Verdict(question, "good", f"All {result.measured} that were measured do{edges}.")


def of_privacy(result: Privacy | None, sizes: Sequence[int]) -> Verdict:
    """Return whether something resembles the training set more than it should; never `safe`."""
    question = "Do they repeat patients of the training set?"
    if result is None:
        return Verdict(
            question, "unknown", "Not measured: no training set was given (--train-set)."
        )
    suspicious = [pair for pair in result.pairs if pair.suspicious]
    if suspicious:
        names = ", ".join(f"{pair.name} (from {pair.training})" for pair in suspicious[:5])
        return Verdict(
            question,
            "poor",
            f"Suspicious: {names}. Each resembles a training volume more than any real one does.",
        )
    if few := _too_few(sizes):
        return Verdict(question, "unknown", few)
    p = min(result.picture.p, result.features.p)
    if p < _LEVEL:
        return Verdict(
            question,
            "look",
            "None is a copy by these measures, but all together they are nearer to the training set"
            f" than real ones are (p = {p:.3f}).",
        )
    other = "held-out real ones" if result.held_out else "training volumes to each other"
    return Verdict(
        question,
        "good",
        f"None was found to; as a set they are no nearer to the training set than {other}. That is"
        " no proof that they cannot.",
    )


def of_bias(result: Bias, has_real: bool, sizes: Sequence[int]) -> Verdict:
    """Return which quantities are over- or under-represented."""
    question = "What is over- and under-represented?"
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
            "Nothing that was measured is distributed otherwise than in real volumes.",
        )
    different.sort(key=lambda one: -(one.distance or 0))
    parts = [_difference(one) for one in different[:3]]
    parts += [
        f"{one.name} is in {one.synthetic:.0%} and not {one.real:.0%} of them" for one in absent[:2]
    ]
    more = len(different) + len(absent) - len(parts)
    return Verdict(
        question,
        "look",
        _sentence(parts)[:-1] + (f", and {more} more" if more else "") + " than in real volumes.",
    )


def of_use(result: Use | None) -> Verdict:
    """Return whether a network that learns from the volumes works on real ones."""
    question = "Does a network that learns from them work on real ones?"
    if result is None:
        return Verdict(
            question,
            "unknown",
            "Not measured: it takes --train, --real, and labels of the same names on both sides.",
        )
    own, real, both = result.synthetic, result.real, result.both
    sentence = (
        f"Dice on {result.tested} held-out real volumes: {own.mean:.2f} learned from synthetic"
        f" ones, {real.mean:.2f} from real ones, {both.mean:.2f} from both."
    )
    level = "good" if own.high >= real.low else "look"
    return Verdict(question, "poor" if own.mean < _USELESS * real.mean else level, sentence)


def _difference(one: Quantity) -> str:
    own, real = float(np.median(one.synthetic)), float(np.median(one.real))
    if own == real:
        return f"{one.name} is more or less spread"
    return f"{one.name} is {'greater' if own > real else 'smaller'}"


def _too_few(sizes: Sequence[int]) -> str:
    smallest = min(sizes)
    if smallest >= _FEW:
        return ""
    return f"Too few volumes to tell: {smallest}, where {_FEW} or more are wanted."


def _rank(level: str) -> int:
    return LEVELS.index(level)


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts) + "."
    return text[:1].upper() + text[1:]
