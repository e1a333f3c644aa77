"""Progress on one line of a terminal."""

from __future__ import annotations

import math
import os
import time
import unicodedata
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from .._volume import Progress

_WIDTH = 30  # cells of the bar itself
_STAGE = 12  # cells of a stage's name
_LEAST = 0.05  # fraction of the whole from which on the remaining time is estimated
_COLUMNS = 80  # of a terminal that reports no width
_CLEAR = "\r\x1b[2K"


class Line:
    """The last line of a terminal, which is redrawn in place.

    `drawable` is False if `out` is no terminal, or one without control sequences (`TERM=dumb`);
    then nothing is written.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self.drawable = out.isatty() and os.environ.get("TERM") != "dumb"

    def draw(self, text: str) -> None:
        """Show `text`, cut to the current width: a wrapped line could not be cleared."""
        self._write(_CLEAR + cut(text, self.width))

    def clear(self) -> None:
        """Leave an empty line."""
        self._write(_CLEAR)

    @property
    def width(self) -> int:
        """Cells that can be written on the line; text in the last one makes some terminals wrap."""
        try:
            columns = os.get_terminal_size(self._out.fileno()).columns
        except (OSError, ValueError):
            columns = 0
        return (columns or _COLUMNS) - 1

    def encodes(self, text: str) -> bool:
        """Return whether the terminal's encoding has these characters."""
        try:
            text.encode(self._out.encoding or "ascii")
        except UnicodeEncodeError:
            return False
        return True

    def _write(self, text: str) -> None:
        if self.drawable:
            self._out.write(text)
            self._out.flush()


class Bar:
    """Draws `Progress` on a terminal, and clears the line at the end; silent on other streams."""

    def __init__(self, out: TextIO) -> None:
        self._line = Line(out)
        self._full, self._empty = "━╌" if self._line.encodes("━╌") else "#-"
        self._start: tuple[float, float] | None = None  # seconds, fraction

    def __call__(self, progress: Progress) -> None:
        """Draw the bar again."""
        if not self._line.drawable:
            return
        fraction, now = min(max(progress.fraction, 0.0), 1.0), time.monotonic()
        # No pace can be measured while nothing advances.
        if self._start is None or fraction <= self._start[1]:
            self._start = now, fraction
        seconds = seconds_left(fraction - self._start[1], 1 - fraction, now - self._start[0])
        right = f" {fraction:4.0%}" + (f" {duration(seconds)} left" if seconds is not None else "")
        name = cut(progress.stage, _STAGE)
        name += " " * (_STAGE + 1 - cells(name))
        width = min(_WIDTH, self._line.width - cells(name) - len(right))
        filled = round(fraction * max(width, 0))
        self._line.draw(name + self._full * filled + self._empty * (width - filled) + right)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.clear()


def seconds_left(done: float, remaining: float, seconds: float) -> float | None:
    """Return the time for the fraction `remaining`, if the fraction `done` took `seconds`.

    None if too little is done for an estimate, or nothing remains.
    """
    return seconds * remaining / done if done >= _LEAST and remaining > 0 else None


def duration(seconds: float) -> str:
    """Return a time as text, such as `8 s`, `12 min` or `3.5 h`; at least `1 s`."""
    if seconds <= 99:
        return f"{max(1, math.ceil(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5940 else f"{seconds / 3600:.1f} h"


def cells(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    return sum(map(_cells, text))


def cut(text: str, width: int) -> str:
    """Return the beginning of a text that fits `width` cells of a terminal."""
    columns = 0
    for index, character in enumerate(text):
        columns += _cells(character)
        if columns > width:
            return text[:index]
    return text


def _cells(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
