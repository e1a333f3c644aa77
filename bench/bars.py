"""Bar charts as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.svg import document, line, rectangle, text

_WIDTH, _LEFT, _RIGHT = 760, 212, 60
_BAR, _GAP = 16, 12  # height of a bar, space between two categories
_COLOURS = "abcd"


class Bar(NamedTuple):
    """A value, and the ends of the line that shows its range."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def end(self) -> float:
        """The largest value that the bar or its line reaches."""
        return max(self.value, self.high or 0)


@dataclass(frozen=True)
class Panel:
    """Bars on one axis: each series has a bar for each category, or None if there is no value."""

    title: str
    categories: Sequence[str]
    series: Mapping[str, Sequence[Bar | None]]


@dataclass(frozen=True)
class Chart:
    """Panels below each other."""

    title: str
    panels: Sequence[Panel]


def draw(chart: Chart) -> str:
    """Return a chart as SVG."""
    rows, y = [text(16, 28, chart.title, "strong")], 44.0
    for panel in chart.panels:
        rows.extend(_panel(panel, y))
        y += _height(panel)
    return document(_WIDTH, y, chart.title, rows)


def _height(panel: Panel) -> float:
    return 62 + len(panel.categories) * (_BAR * len(panel.series) + _GAP)


def _panel(panel: Panel, top: float) -> Iterator[str]:
    yield text(16, top + 16, panel.title, "small strong")
    if len(panel.series) > 1:
        for number, name in enumerate(panel.series):
            key = _LEFT + 150 * number + 100
            yield rectangle(key, top + 6, 12, 12, _COLOURS[number], 2)
            yield text(key + 18, top + 16, name, "small")
    values = [bar for series in panel.series.values() for bar in series if bar]
    step = tick_step(max((bar.end for bar in values), default=1.0))
    count = math.ceil(max((bar.end for bar in values), default=1.0) / step)
    scale = (_WIDTH - _LEFT - _RIGHT) / (count * step)
    lower = top + _height(panel) - 30
    for tick in range(count + 1):
        x = _LEFT + tick * step * scale
        yield line([(x, top + 26), (x, lower)], "grid")
        yield text(x, lower + 16, f"{tick * step:g}", "small middle")
    y = top + 26 + _GAP / 2
    for position, category in enumerate(panel.categories):
        height = _BAR * len(panel.series)
        yield text(_LEFT - 8, y + height / 2 + 4, category, "small end")
        for number, series in enumerate(panel.series.values()):
            if bar := series[position]:
                yield from _bar(bar, y + _BAR * number, scale, _COLOURS[number])
        y += height + _GAP


def _bar(bar: Bar, y: float, scale: float, colour: str) -> Iterator[str]:
    yield rectangle(_LEFT, y + 1, bar.value * scale, _BAR - 2, colour, 2)
    if bar.low is not None and bar.high is not None:
        yield line([(_LEFT + end * scale, y + _BAR / 2) for end in (bar.low, bar.high)])
    number = f"{bar.value:.3g}" if bar.value < 1000 else f"{bar.value:.0f}"
    yield text(_LEFT + bar.end * scale + 6, y + _BAR - 4, number, "small halo")


def tick_step(largest: float) -> float:
    """Return the smallest distance with which five ticks reach the largest value.

    The distance is 1, 2 or 5 times a power of ten.
    """
    power = 10.0 ** math.floor(math.log10(largest / 5))
    return next(times * power for times in (1, 2, 5, 10) if 5 * times * power >= largest)
