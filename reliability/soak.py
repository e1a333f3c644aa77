"""Keep a server busy for a long time with all kinds of requests; check that no resource grows.

A few clients send a seeded mix of requests for volumes of 32 x 32 x 32 to 128 x 128 x 128 voxels,
with and without a mask. They use our client, our asyncio client, and tritonclient with the
ensemble. Large volumes use shared memory. Some requests are cancelled, and some are invalid. Every
2 s, the command samples resources that processes may leak (`reliability.samples` lists them and
defines flat). A good request must return the same bytes at the beginning, after a third of the time
and at the end. Every repeated request must return the same bytes. The last line of the output is
JSON. The exit status is 1 if a resource grew or a request ended unexpectedly.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from maisi_client import Client, InvalidRequest, MaisiError, Volume, aio

from bench import ROOT, servers
from bench.launcher import Server
from reliability import fuzz
from reliability.samples import Sample, Sampler, growth, plot, write_csv

INTERVAL = 2.0  # seconds between two samples
_SMALL = ((32, 32, 32), (48, 32, 40), (64, 64, 64), (33, 47, 35))
_LARGE = ((96, 112, 96), (80, 96, 64))
_LARGEST = (128, 128, 128)
_SHORT = 60.0  # seconds; a shorter run has no warm-up, and its memory may grow
_SHARED = (112, 112, 96)  # voxels; mask, source and image have more than 8 MiB together
_INVALID: tuple[dict[str, Any], ...] = (
    {"size": [0, 32, 32]},
    {"size": [32, 32, 4096]},
    {"size": [32, 32, 32], "steps": 0},
    {"size": [32, 32, 32], "modality": "photograph"},
    {"size": [32, 32, 32], "guidance": -1.0},
    {"size": [32, 32, 32], "spacing": 100.0},
    {"size": [32, 32, 32], "solver": "none"},
    {"size": [32, 32, 32], "variant": "nobody"},
)
_LONGEST = 600.0  # limit in seconds for a request, including its wait for others
_FIXED: dict[str, Any] = {"size": [48, 48, 48], "steps": 2, "seed": 11, "modality": "mri_t2"}


_SHARES = {  # share of the requests of each kind
    "client": 0.35,
    "ensemble": 0.2,
    "asyncio": 0.15,
    "cancelled": 0.15,
    "wrong messages": 0.08,
    "wrong arguments": 0.07,
}


@dataclass
class Tally:
    """The outcomes of requests; threads share it. `findings` has unexpected outcomes."""

    counts: Counter[str] = field(default_factory=Counter)
    endpoints: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, endpoint: str, outcome: str, expected: bool) -> None:
        """Count a request that ended, and whether its outcome was expected."""
        with self.lock:
            self.counts[outcome if expected else "failed"] += 1
            self.endpoints[endpoint] += 1
            if not expected:
                self.findings.append(f"{endpoint}: {outcome}")

    def ask(
        self, endpoint: str, request: dict[str, Any], send: Callable[[dict[str, Any]], Any]
    ) -> None:
        """Call `send` with a request and count the outcome.

        `send` returns the image `[X, Y, Z]`, or None if it cancelled the request.
        """
        wrong = endpoint == "wrong arguments"
        try:
            image = send(request)
        except InvalidRequest as error:
            self.count(endpoint, "refused" if wrong else str(error), wrong)
        except Exception as error:  # any error is a finding
            self.count(endpoint, f"{type(error).__name__}: {error}", False)
        else:
            if image is None:
                self.count(endpoint, "cancelled", endpoint == "cancelled")
                return
            plain = {name: getattr(value, "shape", value) for name, value in request.items()}
            key, digest = json.dumps(plain, sort_keys=True), hashlib.sha256(image.tobytes())
            with self.lock:
                same = self.digests.setdefault(key, digest.hexdigest()) == digest.hexdigest()
            if wrong:
                self.count(endpoint, f"answered: {key}", False)
            else:
                self.count(endpoint, "answered" if same else f"different bytes: {key}", same)


def draw(chance: random.Random, largest: bool = False) -> dict[str, Any]:
    """Return a random good request; requests of each kind are few, so that most are repeated."""
    request = {"steps": chance.choice((1, 2, 3)), "seed": chance.randrange(3), "spacing": 2.0}
    kind = chance.choice((0.0, 1.0)) if largest else chance.random()
    if kind < 0.04:
        source = servers.picture(_SHARED, np.float32)
        return {"mask": servers.picture(_SHARED), "source": source, **request, "strength": 0.5}
    sizes = _SMALL if kind < 0.8 else _LARGE if kind < 0.97 else (_LARGEST,)
    size = chance.choice(sizes)
    return (
        {**request, "mask": servers.picture(size)}
        if chance.random() < 0.5
        else {**request, "size": size}
    )


@contextmanager
def busy(
    server: Server, seed: int, tally: Tally, clients: int, largest: bool = False
) -> Iterator[None]:
    """Let `clients` clients send requests during the block."""
    done = threading.Event()
    with ThreadPoolExecutor(clients) as pool:
        futures = [
            pool.submit(keep_sending, server, f"{seed} {number}", tally, done, largest)
            for number in range(clients)
        ]
        try:
            yield
        finally:
            done.set()
    for future in futures:
        future.result()


def keep_sending(
    server: Server, seed: str, tally: Tally, done: threading.Event, largest: bool
) -> None:
    """Send requests and count them until `done` is set."""
    chance = random.Random(seed)
    models = sorted(servers.statistics(server.grpc))
    messages = fuzz.messages(server.grpc, server.http, models, {}, random.Random(seed))
    with Client(server.grpc, timeout=_LONGEST) as client:
        senders: dict[str, Callable[[dict[str, Any]], Any]] = {
            "client": lambda request: _image(client.generate(**request)),
            "ensemble": lambda request: servers.ensemble(server.grpc, request, _LONGEST),
            "asyncio": lambda request: asyncio.run(_aio(server.grpc, request)),
            "cancelled": lambda request: _cancel(client, request, chance.randint(1, 4)),
            "wrong arguments": lambda request: _image(client.generate(**request)),
        }
        while not done.is_set():
            [endpoint] = chance.choices(list(_SHARES), list(_SHARES.values()))
            if endpoint == "wrong messages":
                outcome = next(messages).outcome
                tally.count(endpoint, outcome, outcome in ("answered", "refused"))
            else:
                good = endpoint != "wrong arguments"
                request = draw(chance, largest) if good else chance.choice(_INVALID)
                tally.ask(endpoint, request, senders[endpoint])


def _image(volume: Volume) -> Any:
    return np.asarray(volume.image.dataobj)


def _cancel(client: Client, request: dict[str, Any], leave: int) -> Any:
    """Close a stream after `leave` events; return the image if the stream ended before."""
    with closing(client.stream(**request)) as events:
        for number, event in enumerate(events, 1):
            if isinstance(event, Volume):
                return _image(event)
            if number >= leave:
                return None
    raise AssertionError("a stream ends with a volume or raises")


async def _aio(url: str, request: dict[str, Any]) -> Any:
    async with aio.Client(url, timeout=_LONGEST) as client:
        return _image(await client.generate(**request))


def soak(
    repository: Path, seconds: float, seed: int, clients: int, log: Path
) -> tuple[dict[str, Any], list[Sample]]:
    """Run for `seconds`; return the report and the samples."""
    tally, digests, samples = Tally(), [], []
    with (
        Server(repository, log, "--models=mini") as server,
        Client(server.grpc) as client,
    ):

        def digest() -> None:
            try:
                digests.append(client.generate(**_FIXED).report["sha256"])
            except MaisiError as error:
                tally.count("client", f"{type(error).__name__}: {error}", False)

        digest()
        if seconds > _SHORT:  # fills caches with more concurrent requests than later
            with busy(server, seed, tally, 2 * clients, largest=True):
                time.sleep(seconds / 10)
        with busy(server, seed, tally, clients):
            sampler, began = Sampler(server), time.monotonic()
            while (now := time.monotonic() - began) < seconds:
                samples.append(sampler.sample(now))
                if len(digests) == 1 and now > seconds / 3:
                    digest()
                time.sleep(min(INTERVAL, seconds / 9))
        digest()
    if any(other != digests[0] for other in digests):
        tally.findings.append("different bytes of the good request")
    tally.findings += [f"{name} died" for name in sampler.died()]
    growths = growth(samples)
    report: dict[str, Any] = {
        "minutes": round(seconds / 60, 1),
        "seed": seed,
        "clients": clients,
        **tally.counts,
        "endpoints": dict(tally.endpoints),
        "growth": {
            f"{quantity}: {name}": [round(change.before), round(change.after)]
            for (quantity, name), change in growths.items()
        },
        "not flat": [": ".join(key) for key, change in growths.items() if not change.flat],
        "found": sorted(set(tally.findings))[:20],
    }
    return report, samples


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="scripts/reliability soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="duration [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the requests [0]")
    parser.add_argument("--clients", type=int, default=3, help="concurrent clients [%(default)s]")
    parser.add_argument(
        "--repository", type=Path, default=ROOT / "model_repository", help="model repository"
    )
    parser.add_argument("--plot", type=Path, metavar="PATH", help="plot the samples: .png or .svg")
    parser.add_argument("--csv", type=Path, metavar="PATH", help="write every sample")
    options = parser.parse_args()
    log = ROOT / "build" / "soak.log"  # kept for findings
    log.parent.mkdir(exist_ok=True)
    report, samples = soak(
        options.repository, 60 * options.minutes, options.seed, options.clients, log
    )
    if options.csv:
        write_csv(samples, options.csv)
    if options.plot:
        plot(samples, options.plot)
    print(json.dumps(report))
    return int(bool(report["not flat"] or report["found"]))


if __name__ == "__main__":
    sys.exit(main())
