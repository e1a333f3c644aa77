"""Simulate how many servers a load needs: `scripts/bench fleet`.

    scripts/bench fleet [--kind 256³=0.8:5 --kind 512³=0.2:48] [--rate 2000] [--p95 120] [--write]

`--kind NAME=SHARE:SECONDS` describes the requests of one size: their share of all requests, and the
seconds that a device works on one request. The defaults are the times that NVIDIA published for an
A100, for 30 steps and the decoder (docs/reference/published.md). For each rate, in volumes per
hour, the command prints how many servers with one device keep the 95th percentile of the response
time below `--p95`, and how many requests may wait at a server. `--trial` compares the simulation
with three real servers whose networks sleep. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench import ROOT, page

from .simulation import Fleet, Kind, Result, capacity, queue_limit, replicas
from .three_servers import SERVERS, Trial
from .three_servers import run as run_trial

PAGE = ROOT / "docs" / "how-to" / "operations.md"
SECTION = "Replicas for a load"
_KINDS = (Kind("256³", 0.8, [5.0]), Kind("512³", 0.2, [48.0]))
_RATES = (200.0, 2000.0, 20_000.0, 200_000.0)  # volumes per hour
_REQUESTS = 20_000  # smallest number of requests in a simulation
_LOAD, _COUNT = 0.75, 200  # of the trial: share of the capacity, number of requests


@dataclass(frozen=True)
class Answer:
    """The servers that a rate, in volumes per hour, needs; `clients` is "one" or "many"."""

    rate: float
    clients: str
    servers: int
    result: Result


def answers(
    kinds: Sequence[Kind],
    fleet: Fleet,
    rates: Sequence[float],
    p95: float,
    count: int,
) -> list[Answer]:
    """Return the servers for each rate, for one client and for many independent clients.

    A simulation has `count` requests or the requests of an hour, whichever is more. Raises
    ValueError if no number of servers keeps `p95` seconds.
    """
    rows = []
    for rate in rates:
        for clients in ("one", "many"):
            client_fleet = replace(fleet, scattered=clients == "many")
            requests = max(count, round(rate))
            servers, result = replicas(kinds, client_fleet, rate / 3600, p95, requests)
            rows.append(Answer(rate, clients, servers, result))
    return rows


def table(rows: Sequence[Answer]) -> str:
    """Return the Markdown table of the answers."""
    head = ["volumes/h", "clients", "servers", "busy", "p50", "p95", "waiting at a server"]
    return page.table(
        head,
        [
            [
                f"{row.rate:,.0f}",
                row.clients,
                f"{row.servers:,}",
                f"{row.result.utilisation:.0%}",
                f"{row.result.percentile(50):.0f} s",
                f"{row.result.percentile(95):.0f} s",
                queue_limit(row.result),
            ]
            for row in rows
        ],
    )


def trial_text(trial: Trial) -> str:
    """Return the paragraph and the table of the trial."""
    rows = []
    for name, percent in (("p50", 50), ("p90", 90), ("p95", 95)):
        real, simulated, low, high = trial.percentiles(percent)
        rows.append([name, f"{real:.2f} s", f"{simulated:.2f} s", f"{low:.2f} to {high:.2f} s"])
    kinds = " and ".join(
        f"{kind.share:.0%} that take {sum(kind.seconds) / len(kind.seconds):.2f} s"
        for kind in trial.kinds
    )
    return (
        f"{SERVERS} real servers of `mini`, compared with their simulation. The networks are"
        f" stand-ins that sleep. One client sends {3600 * trial.rate:,.0f} volumes per hour,"
        f" {kinds}, measured on an idle server. Nine of ten simulations with the same number of"
        " requests are in the range.\n\n" + page.table(["", "measured", "simulated", "range"], rows)
    )


def text(options: argparse.Namespace, rows: Sequence[Answer], trial: Trial | None) -> str:
    """Return the section of the page."""
    kinds = " and ".join(
        f"{kind.share:.0%} of {kind.name} in {kind.seconds[0]:g} s" for kind in options.kind
    )
    a_server = 3600 * capacity(options.kind)
    paragraphs = [
        f"Simulated servers with one device, which make {kinds}: {a_server:.0f} volumes per hour"
        f" each. The requests arrive at random times. A server fails every {options.mtbf:g} h on"
        f" average and is ready again after {options.repair:g} s. Each row has the smallest number"
        f" of servers with a p95 of at most {options.p95:g} s, and the `maxWaiting` that refuses at"
        " most one request in a thousand. *One* client, such as a gateway, sends a request to the"
        " server that has the fewest of its requests. *Many* clients send a request to a random"
        " server.",
        table(rows),
    ]
    return "\n\n".join([*paragraphs, *([trial_text(trial)] if trial else [])])


def _kind(words: str) -> Kind:
    name, _, numbers = words.partition("=")
    share, _, seconds = numbers.partition(":")
    try:
        kind = Kind(name, float(share), [float(seconds)])
    except ValueError:
        kind = Kind(name, 0.0, [0.0])
    if not (kind.share > 0 and kind.seconds[0] > 0):
        raise argparse.ArgumentTypeError(f"{words!r} is not NAME=SHARE:SECONDS, such as a=0.8:5")
    return kind


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words)
    options.kind = options.kind or _KINDS
    fleet = Fleet(1, mtbf=3600 * options.mtbf, repair=options.repair)
    rates = options.rate or _RATES
    try:
        rows = answers(options.kind, fleet, rates, options.p95, options.requests)
    except ValueError as error:
        print(f"scripts/bench fleet: {error}", file=sys.stderr)
        return 2
    trial = run_trial(_LOAD, _COUNT) if options.trial else None
    section = text(options, rows, trial)
    print(section + "\n")
    if options.write:
        page.write(SECTION, shlex.join(["scripts/bench", "fleet", *words]), section, PAGE)
    numbers = [
        {
            "rate": row.rate,
            "clients": row.clients,
            "servers": row.servers,
            "utilisation": round(row.result.utilisation, 3),
            "p50": round(row.result.percentile(50), 2),
            "p95": round(row.result.percentile(95), 2),
            "waiting": queue_limit(row.result),
        }
        for row in rows
    ]
    check = {f"p{n}": trial.percentiles(n) for n in (50, 90, 95)} if trial else None
    print(json.dumps({"fleet": numbers, "trial": check}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench fleet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--kind", type=_kind, action="append", metavar="NAME=SHARE:SECONDS", help="see above")
    add("--rate", type=float, action="append", help="volumes per hour; may be repeated")
    add(
        "--p95",
        type=float,
        default=120.0,
        help="longest p95 of a response in seconds [%(default)g]",
    )
    add(
        "--mtbf", type=float, default=168.0, help="hours between failures of a server [%(default)g]"
    )
    add("--repair", type=float, default=300.0, help="seconds until it is ready again [%(default)g]")
    add(
        "--requests",
        type=int,
        default=_REQUESTS,
        help="smallest number of requests in a simulation [%(default)s]",
    )
    add("--trial", action="store_true", help="compare with three real servers")
    add("--write", action="store_true", help=f"write the section of {PAGE.relative_to(ROOT)}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
