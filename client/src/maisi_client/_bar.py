"""A progress bar of one line, for a terminal."""

from __future__ import annotations

import time
from typing import TextIO

from ._volume import Progress

_WIDTH = 30
CLEAR = "\r\x1b[2K"


class Bar:
    """Draws `Progress` on a terminal and leaves with its block; writes nothing to anything else."""

    def __init__(self, out: TextIO) -> None:
        self._out = out if out.isatty() else None
        self._start = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Draw the bar anew."""
        if self._out is None:
            return
        done = min(max(progress.fraction, 0.0), 1.0)
        seconds = time.monotonic() - self._start
        filled = "━" * round(done * _WIDTH)
        left = f"{seconds / done - seconds:4.0f} s left" if done > 0.05 else ""
        self._out.write(f"{CLEAR}{progress.stage:<12.12} {filled:╌<{_WIDTH}} {done:4.0%} {left}")
        self._out.flush()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._out is not None:
            self._out.write(CLEAR)
            self._out.flush()
