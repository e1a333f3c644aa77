"""`maisi dataset`."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

from .._counted import counted
from .._datasets.report_files import LAYOUTS
from .._errors import ServerError
from .common import client
from .options import EXIT_CODES, Commands, count, json_option, server_options
from .progress_bar import Bar, Line, duration

_REDRAW = 1.0  # seconds, on a terminal


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "dataset",
        parents=[server_options(), json_option()],
        help="make every volume of a plan; runs are resumable",
        description="Make the missing volumes of a plan. See docs/how-to/datasets.md.",
        epilog=EXIT_CODES,
    )
    add_argument = parser.add_argument
    add_argument("plan", metavar="PLAN", help="plan, .csv or .jsonl, with one row for each volume")
    add_argument(
        "--to", required=True, metavar="DIR", help="folder of the dataset, created if missing"
    )
    add_argument(
        "--jobs",
        type=count,
        metavar="N",
        help="rows in flight at all servers together [as many as keep all servers busy]",
    )
    add_argument(
        "--layout", choices=LAYOUTS, default="plain", help="layout of the files [%(default)s]"
    )
    add_argument(
        "--channels",
        type=_names,
        default=[],
        metavar="MODALITY,...",
        help="make every row in each of these modalities, as one case of several images",
    )
    add_argument(
        "--attempts", type=count, default=3, metavar="N", help="attempts for a row that fails [3]"
    )
    add_argument(
        "--shard",
        type=_shard,
        default=(0, 1),
        metavar="I/N",
        help="only the rows I, I+N, I+2N, ..., counted from 0",
    )
    add_argument(
        "--assess",
        action="store_true",
        help="measure the dataset at the end: write DIR/assessment, add verdicts to DIR/README.md",
    )
    parser.set_defaults(run=dataset)


def dataset(args: argparse.Namespace, interval: float = 60.0) -> None:
    """Make the rows of a plan; raises ServerError if some failed.

    Without a terminal the progress is printed to stderr every `interval` seconds.
    """
    from .._datasets.dataset import make_dataset
    from .._datasets.plan import read_plan

    rows = read_plan(args.plan)
    index, shards = args.shard
    total, started = len(rows[index::shards]), time.monotonic()
    states: Counter[str] = Counter()
    utilisation: float | None = None
    with (
        client(args) as server,
        _progress_line(
            sys.stderr,
            lambda: pace(states, total, time.monotonic() - started, utilisation),
            interval,
        ) as say,
        contextlib.closing(
            make_dataset(
                rows,
                args.to,
                server,
                layout=args.layout,
                channels=args.channels,
                jobs=args.jobs,
                attempts=args.attempts,
                shard=args.shard,
            )
        ) as outcomes,
    ):
        for outcome in outcomes:
            states[outcome.state] += 1
            utilisation = outcome.utilisation if outcome.utilisation is not None else utilisation
            say(f"{outcome.name}: {outcome.error}" if outcome.error else "")
    speed = {
        "volumes_per_hour": round(_rate(states, time.monotonic() - started), 1),
        "utilisation": None if utilisation is None else round(utilisation, 3),
    }
    verdicts = _assess(args) if args.assess else {}
    if args.json:
        print(json.dumps({"rows": total, **states, **speed, **verdicts}))
    else:
        print(", ".join(f"{number} {state}" for state, number in states.items()))
    if states["failed"]:
        failed = f"{states['failed']} of {counted(total, 'row')} failed"
        raise ServerError(f"{failed}; the reasons are in {args.to}/failed")


def _assess(args: argparse.Namespace) -> dict[str, object]:
    """Measure the dataset, add the verdicts to its card; return them for JSON."""
    from pathlib import Path

    from .._assess.card import add_verdicts
    from .._assess.run import assess
    from .assess import processors, show

    to = Path(args.to)
    with Bar(sys.stderr) as bar:
        result = assess(to, to=to / "assessment", processes=processors(), on_progress=bar)
    add_verdicts(to / "README.md", result)
    if not args.json:
        show(result, as_json=False)
    return {"verdicts": [vars(verdict) for verdict in result.verdicts]}


def pace(states: Counter[str], total: int, seconds: float, utilisation: float | None = None) -> str:
    """Return a line with the progress of a dataset of `total` rows after so many seconds.

    `utilisation` is the share of the servers' time that its volumes took.
    """
    counts = dict(states)  # a copy: another thread counts
    ended = sum(counts.values())
    finished, failed = ended - counts.get("kept", 0), counts.get("failed", 0)
    parts = [f"{ended} of {counted(total, 'row')}"] + [f"{failed} failed"] * bool(failed)
    if finished and seconds > 0:
        parts.append(f"{_rate(counts, seconds):.0f} volumes/h")
        if utilisation is not None:
            parts.append(f"servers {utilisation:.0%} used")
        if ended < total:
            parts.append(f"{duration(seconds * (total - ended) / finished)} left")
    return ", ".join(parts)


def _rate(counts: Mapping[str, int], seconds: float) -> float:
    """Return the number of rows that ended per hour, without those that were kept."""
    return 3600 * (sum(counts.values()) - counts.get("kept", 0)) / seconds


@contextlib.contextmanager
def _progress_line(
    out: TextIO, text: Callable[[], str], interval: float
) -> Iterator[Callable[[str], None]]:
    """Show `text()` within the context: on one line of a terminal, else every `interval` seconds.

    Yield a function that prints a message on its own line. The last text stays, if any was shown.
    """
    line, stopped, lock = Line(out), threading.Event(), threading.Lock()
    visible = False

    def show() -> None:
        nonlocal visible
        visible = True
        if line.drawable:
            line.draw(text())
        else:
            print(text(), file=out, flush=True)

    def repeat() -> None:
        while not stopped.wait(_REDRAW if line.drawable else interval):
            with lock:
                show()

    def say(message: str) -> None:
        nonlocal visible
        visible = True
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
        if visible:
            show()
            if line.drawable:
                print(file=out, flush=True)


def _names(text: str) -> list[str]:
    """Read names that are separated by commas."""
    return [name.strip() for name in text.split(",")]


def _shard(text: str) -> tuple[int, int]:
    """Read `I/N`."""
    index, _, number = text.partition("/")
    if not 0 <= int(index) < int(number):
        raise argparse.ArgumentTypeError(f"{text} is not I/N with I from 0 to N-1")
    return int(index), int(number)
