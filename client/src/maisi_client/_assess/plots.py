"""Plots as inline SVG, for a page without scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

SYNTHETIC, REAL = "synthetic", "real"  # classes of the page's style sheet
_WIDTH, _LABEL, _RIGHT = 640, 150, 14  # pixels
_ROW, _AXIS = 34, 26
_HIGH = 150  # pixels, the height of a histogram
_BINS = 24
_LEAST = 1e-12  # of a logarithmic axis


@dataclass(frozen=True)
class Interval:
    """A value of one side with its interval."""

    side: str
    middle: float
    low: float
    high: float


def intervals(rows: Sequence[tuple[str, Sequence[Interval]]], *, log: bool = False) -> str:
    """Return a plot of intervals, one row per name; `log` makes the axis logarithmic."""
    every = [part for _, parts in rows for part in parts]
    floor = max((part.middle for part in every), default=1.0) * 1e-4 if log else -math.inf
    floor = max(floor, _LEAST) if log else floor
    values = [max(v, floor) for part in every for v in (part.middle, part.low, part.high)]
    axis = _Axis.over(values, log, _LABEL)
    height = _ROW * len(rows) + _AXIS
    marks = [_ticks(axis, height - _AXIS)]
    for number, (name, parts) in enumerate(rows):
        middle = _ROW * number + _ROW / 2
        marks.append(
            f'<text x="{_LABEL - 10}" y="{middle + 4:.1f}" class="row">{escape(name)}</text>'
        )
        for place, part in enumerate(parts):
            y = middle + (place - (len(parts) - 1) / 2) * 11
            low, mid, high = (axis.x(max(v, floor)) for v in (part.low, part.middle, part.high))
            marks.append(
                f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"'
                f' class="{part.side} bar"/>'
                f'<circle cx="{mid:.1f}" cy="{y:.1f}" r="4.5" class="{part.side}"/>'
            )
    return _svg(height, marks)


def histogram(
    synthetic: Sequence[float],
    real: Sequence[float],
    *,
    unit: str = "",
    limit: float | None = None,
    mark: str = "",
) -> str:
    """Return histograms of both sides, as shares, on one axis, with a line at `limit`."""
    every = [*synthetic, *real, *([limit] if limit is not None else [])]
    axis = _Axis.over(every, False, _RIGHT)
    edges = np.linspace(axis.low, axis.high, _BINS + 1)
    shares = [np.histogram(values, edges)[0] / max(len(values), 1) for values in (real, synthetic)]
    top = max(float(np.max(one, initial=0)) for one in shares) or 1.0
    base = _HIGH - 4
    marks = [_ticks(axis, _HIGH)]
    marks.append(f'<text x="{_WIDTH / 2}" y="{_HIGH + 32}" class="tick">{escape(unit)}</text>')
    for side, share in zip((REAL, SYNTHETIC), shares, strict=True):
        if not share.any():
            continue
        points = [f"{axis.x(axis.low):.1f},{base}"]
        for low, high, value in zip(edges[:-1], edges[1:], share, strict=True):
            y = base - (base - 12) * float(value) / top
            points += [f"{axis.x(float(low)):.1f},{y:.1f}", f"{axis.x(float(high)):.1f},{y:.1f}"]
        points.append(f"{axis.x(axis.high):.1f},{base}")
        marks.append(f'<polygon points="{" ".join(points)}" class="{side} area"/>')
    if limit is not None:
        x = axis.x(limit)
        marks.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{base}" class="limit"/>')
        marks.append(f'<text x="{x + 5:.1f}" y="14" class="tick left">{escape(mark)}</text>')
    return _svg(_HIGH + _AXIS + 14, marks)


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    log: bool
    left: float  # pixels on the left of the axis

    @classmethod
    def over(cls, values: Sequence[float], log: bool, left: float) -> _Axis:
        low, high = min(values, default=0.0), max(values, default=1.0)
        if log:
            return cls(low / 1.15, high * 1.15 if high > low else low * 10, True, left)
        margin = 0.04 * (high - low) or max(abs(high), 1.0) * 0.1
        return cls(low - margin, high + margin, False, left)

    def x(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(max(at, self.low))
        return self.left + (_WIDTH - self.left - _RIGHT) * (at - low) / (high - low)

    def ticks(self) -> list[float]:
        """Return round values within the axis."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 3) if len(powers) <= 4 else (1,)
            candidates = [step * 10.0**power for power in powers for step in steps]
        else:
            step = 10 ** math.floor(math.log10((self.high - self.low) / 4))
            step *= next(s for s in (1, 2, 5, 10) if (self.high - self.low) / (s * step) <= 6)
            first = math.ceil(self.low / step)
            candidates = [step * n for n in range(first, math.floor(self.high / step) + 1)]
        return [value for value in candidates if self.low <= value <= self.high]


def _ticks(axis: _Axis, bottom: float) -> str:
    marks = []
    for value in axis.ticks():
        x = axis.x(value)
        marks.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{bottom:.0f}" class="grid"/>'
            f'<text x="{x:.1f}" y="{bottom + 16:.0f}" class="tick">{value:.6g}</text>'
        )
    return "".join(marks)


def _svg(height: float, marks: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" preserveAspectRatio="xMinYMin">'
        + "".join(marks)
        + "</svg>"
    )
