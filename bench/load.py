"""Measure throughput and latency under load: `scripts/bench load`."""

from __future__ import annotations

import argparse
import csv
import json
import math
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bench import ROOT, charts, page, perf_analyzer, servers
from bench.launcher import ServerFailed
from bench.levels import LevelResult, endpoint_names, measure, table
from bench.perf_analyzer import Endpoint, Failed, Load
from bench.perf_analyzer_install import Unavailable, command

_SLACK = 1 << 16  # bytes of shared memory for the report, in addition to the volume


@dataclass(frozen=True)
class Target:
    """A server under load: its gRPC address, the operator's key or "", and its endpoints.

    `inputs` is a file for `--input-data` of perf_analyzer. `masked` says whether it has a mask.
    """

    url: str
    key: str
    endpoints: Sequence[Endpoint]
    inputs: Path
    masked: bool


@contextmanager
def target(options: argparse.Namespace) -> Iterator[Target]:
    """Yield the target: the server at `--url`, or else a server that runs during the block."""
    name, size, path = options.variant, options.size, options.out / "inputs.json"
    plain, stream = Endpoint(name, False), Endpoint(f"{name}.stream", True)

    def write(facts: dict[str, Any]) -> dict[str, Any]:
        request = servers.inputs(facts, size, options.steps)
        path.write_text(json.dumps({"data": [request]}))
        return request

    if options.url:
        request = write(servers.variant(options.url, name))
        yield Target(options.url, "", [plain, stream], path, "mask" in request)
        return
    repository = ROOT / "model_repository"
    request = write(servers.variant_in(repository, name))
    shared_bytes = 2 * math.prod(size) + _SLACK
    narrow = Endpoint(f"{name}.{servers.NARROW}", False, shared_bytes)
    narrow_stream = Endpoint(f"{name}.{servers.NARROW_STREAM}", True, shared_bytes)
    endpoints = [plain, narrow, stream, narrow_stream]
    with tempfile.TemporaryDirectory(prefix="loadtest-") as folder:
        servers.add_narrow_endpoints(repository, name, request, Path(folder))
        words = (Path(folder), options.out / "server.log", f"--models={name}")
        with servers.keyed(*words) as (server, key):
            yield Target(server.grpc, key, endpoints, path, "mask" in request)


def test(options: argparse.Namespace) -> tuple[list[LevelResult], list[str]]:
    """Run every level on every endpoint; return the rows, and a sentence for each failed level.

    Each row is written to `load.csv` in the output folder as soon as it is measured. Raises
    Unavailable without perf_analyzer. Raises ServerFailed if an endpoint does not answer the first
    request, or if the answers do not fit into memory.
    """
    program = command()
    options.out.mkdir(parents=True, exist_ok=True)
    count = options.requests
    loads = [Load(max(count, number), concurrency=number) for number in options.concurrency]
    loads += [Load(max(count, math.ceil(rate)), rate=rate) for rate in options.rate]
    rows, notes = [], []
    with (
        target(options) as to,
        (options.out / "load.csv").open("w") as f,
    ):
        lines = csv.DictWriter(f, [field.name for field in fields(LevelResult)])
        lines.writeheader()
        needed = max(
            perf_analyzer.memory_needed(load, endpoint, math.prod(options.size))
            for load in loads
            for endpoint in to.endpoints
        )
        if needed > (free := psutil.virtual_memory().available):
            raise ServerFailed(
                f"perf_analyzer keeps every answer and would take about {needed >> 20} MB, but"
                f" {free >> 20} MB are free: set fewer --requests or a smaller --size."
            )
        for endpoint in to.endpoints:
            title = " by ".join(endpoint_names(endpoint))
            try:  # the first request of a size is slower, so it is not measured
                perf_analyzer.run(
                    program, to.url, endpoint, Load(1, 1), to.inputs, options.seconds, to.key
                )
            except Failed as error:
                raise ServerFailed(f"The {title} does not answer: {error}") from None
            for load in loads:
                print(f"{title}, {load} ...", file=sys.stderr)
                run = partial(
                    perf_analyzer.run,
                    program,
                    to.url,
                    endpoint,
                    load,
                    to.inputs,
                    options.seconds,
                    to.key,
                )
                result, reason = measure(
                    run, to.url, options.variant, endpoint, load, to.masked, options.steps
                )
                rows.append(result)
                lines.writerow(asdict(result))
                f.flush()
                if reason:
                    notes.append(f"{title}, {load}: {reason}")
    return rows, notes


def text(options: argparse.Namespace, rows: Sequence[LevelResult], notes: Sequence[str]) -> str:
    """Return the section of the page."""
    by = " x ".join(str(side) for side in options.size)
    steps = f"{options.steps} step{'s' if options.steps > 1 else ''}"
    paragraphs = [
        f"`{options.variant}`, {by} voxels, {steps}, one server. perf_analyzer sends the requests:"
        " a fixed number at once, or a fixed number per second, independent of the answers. A level"
        f" has {options.requests} requests, or as many as it sends at once if that is more. Times"
        " are milliseconds. The percentiles are latencies at the client. With fewer than 20"
        " requests p95 is the slowest request, and with fewer than 100 requests p99. The other"
        " columns are the parts of a mean request: waiting for a busy model, the stages, and the"
        " rest, which is the time of transport and of Triton itself.",
        table(rows),
        "The stages of the ensemble come from Triton's statistics. The stages of the stream come"
        " from its progress. The queue of the stream is the time until it begins, including the"
        " transport of the request.",
    ]
    if not options.url:
        paragraphs[-1] += (
            " perf_analyzer puts every input of a model into shared memory and cannot omit an"
            " input. The rows of shared memory therefore call copies of the two endpoints that have"
            " only the inputs that are sent."
        )
    else:
        paragraphs[-1] += (
            " Shared memory is measured only with a server that the script starts: perf_analyzer"
            " cannot omit an input in shared memory, and the inputs of this server are optional."
        )
    return "\n\n".join([*paragraphs, *notes])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(words)
    # SIGTERM has the effect of Ctrl-C. SIGINT is set because a shell's background job ignores it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        rows, notes = test(options)
    except KeyboardInterrupt:
        print("load: cancelled", file=sys.stderr)
        return 130
    except (Unavailable, ServerFailed) as error:
        print(f"load: {error}", file=sys.stderr)
        return 1
    section = text(options, rows, notes)
    numbers = {
        "benchmark": "load",
        "variant": options.variant,
        "machine": page.machine(),
        "rows": [asdict(result) for result in rows],
    }
    if options.write:
        others = [word for word in words if word != "--write"]
        picture = charts.write("load", numbers)
        command = shlex.join(["scripts/bench", "load", *others])
        page.write("Load", command, f"{picture}\n\n{section}")
    print(section)
    print(f"\n{options.out / 'load.csv'} has these rows, and more columns.\n")
    print(json.dumps(numbers))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench load",
        description="Measure the throughput, latency and stages of a variant with perf_analyzer.",
    )
    parser.add_argument("--url", help="gRPC address HOST:PORT of a server [start a server]")
    parser.add_argument("--variant", default="mini", help="variant to call [%(default)s]")
    parser.add_argument(
        "--size", type=_sides, default="64,64,64", metavar="X,Y,Z", help="voxels [%(default)s]"
    )
    parser.add_argument("--steps", type=_positive, default=4, help="solver steps [%(default)s]")
    parser.add_argument(
        "--concurrency",
        type=_list(_positive),
        default="1,2,4,8",
        metavar="N,...",
        help="requests at once [%(default)s]",
    )
    parser.add_argument(
        "--rate",
        type=_list(_rate),
        default="0.5,1",
        metavar="R,...",
        help="requests per second [%(default)s]; '' for none",
    )
    parser.add_argument(
        "--requests",
        type=_positive,
        default=8,
        metavar="N",
        help="requests in each level [%(default)s]",
    )
    parser.add_argument(
        "--seconds", type=float, default=600, help="longest time of a level [%(default)s]"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/load"), help="output folder [%(default)s]"
    )
    parser.add_argument("--write", action="store_true", help="write docs/reference/benchmarks.md")
    return parser


def _positive(word: str) -> int:
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number above 0")
    return int(word)


def _rate(word: str) -> float:
    with suppress(ValueError):
        if 0 < float(word) < math.inf:
            return float(word)
    raise argparse.ArgumentTypeError(f"{word!r} is not a number above 0")


def _list(convert: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda words: [convert(word) for word in words.split(",") if word]


def _sides(words: str) -> tuple[int, int, int]:
    sides = [_positive(word) for word in words.split(",")]
    if len(sides) != 3:
        raise argparse.ArgumentTypeError(f"{words!r} is not three numbers X,Y,Z")
    return sides[0], sides[1], sides[2]


if __name__ == "__main__":
    sys.exit(main())
