"""What `maisi dataset` does."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TextIO

from ._bar import Line, duration
from ._commands import _client
from ._dataset import make_dataset
from ._errors import ServerError
from ._plan import read_plan

_REDRAW = 1.0  # seconds between two looks of a terminal


def dataset(args: argparse.Namespace, interval: float = 60.0) -> None:
    """Make the rows of a plan; raises ServerError where some failed.

    Without a terminal a line of stderr says every `interval` seconds how far it is.
    """
    rows = read_plan(args.plan)
    index, count = args.shard
    total, started = len(rows[index::count]), time.monotonic()
    states: Counter[str] = Counter()
    with (
        _client(args) as client,
        _shown(
            sys.stderr, lambda: pace(states, total, time.monotonic() - started), interval
        ) as say,
        contextlib.closing(
            make_dataset(
                rows,
                args.to,
                client,
                layout=args.layout,
                jobs=args.jobs,
                attempts=args.attempts,
                shard=args.shard,
            )
        ) as outcomes,
    ):
        for outcome in outcomes:
            states[outcome.state] += 1
            say(f"{outcome.name}: {outcome.error}" if outcome.error else "")
    if args.json:
        print(json.dumps({"rows": total, **states}))
    else:
        print(", ".join(f"{number} {state}" for state, number in states.items()))
    if states["failed"]:
        raise ServerError(f"{states['failed']} of {total} rows failed; {args.to}/failed says why")


def pace(states: Counter[str], total: int, seconds: float) -> str:
    """Return a line that says how far a dataset of `total` rows is after so many seconds."""
    counts = dict(states)  # a copy: another thread counts
    ended = sum(counts.values())
    made, failed = ended - counts.get("kept", 0), counts.get("failed", 0)
    parts = [f"{ended} of {total} rows"] + [f"{failed} failed"] * bool(failed)
    if made and seconds > 0:
        parts.append(f"{3600 * made / seconds:.0f} volumes/h")
        if ended < total:
            parts.append(f"{duration(seconds * (total - ended) / made)} left")
    return ", ".join(parts)


@contextlib.contextmanager
def _shown(
    out: TextIO, text: Callable[[], str], interval: float
) -> Iterator[Callable[[str], None]]:
    """Show `text()` meanwhile, on a line of a terminal, else as a new line every `interval` s.

    Yields what prints a line of its own. The last text stays, once there was anything to say.
    """
    line, stopped, lock = Line(out), threading.Event(), threading.Lock()
    spoken = False

    def show() -> None:
        nonlocal spoken
        spoken = True
        if line.drawable:
            line.draw(text())
        else:
            print(text(), file=out, flush=True)

    def repeat() -> None:
        while not stopped.wait(_REDRAW if line.drawable else interval):
            with lock:
                show()

    def say(message: str) -> None:
        nonlocal spoken
        spoken = True
        with lock:
            if message:
                line.clear()
                print(message, file=out, flush=True)
            if line.drawable:
                show()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield say
    finally:
        stopped.set()
        thread.join()
        if spoken:
            show()
            if line.drawable:
                print(file=out, flush=True)
