"""Keep a server busy for long with all kinds of requests, and check that nothing grows.

A few clients send a seeded mix: volumes of 32 x 32 x 32 to 128 x 128 x 128 voxels with and without
a mask, by our client, by asyncio's, and to the ensemble by plain tritonclient, large ones through
shared memory; some are cancelled midway, some are invalid. Every 2 s the resources that processes
may leak are sampled (`reliability.samples` lists them, and defines flat). A good request must give
the same bytes before, after the warm-up and at the end, and so must every repeated request. The
last line is JSON; the exit status is 1 where something grew or a request ended unexpectedly.
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
_SHORT = 60.0  # seconds; a shorter run is not warmed up, and shows nothing of memory
_SHARED = (112, 112, 96)  # voxels of which mask, source and image are above 8 MiB together
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
_LONGEST = 600.0  # seconds for a request, with its wait for others
_FIXED: dict[str, Any] = {"size": [48, 48, 48], "steps": 2, "seed": 11, "modality": "mri_t2"}


_SHARES = {  # of the endpoints among the requests
    "client": 0.35,
    "ensemble": 0.2,
    "asyncio": 0.15,
    "cancelled": 0.15,
    "wrong messages": 0.08,
    "wrong arguments": 0.07,
}


@dataclass
class Tally:
    """Outcomes of requests; threads share it. `findings`: what should not occur."""

    counts: Counter[str] = field(default_factory=Counter)
    endpoints: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, endpoint: str, outcome: str, expected: bool) -> None:
        """Count a request that ended, as expected or not."""
        with self.lock:
            self.counts[outcome if expected else "failed"] += 1
            self.endpoints[endpoint] += 1
            if not expected:
                self.findings.append(f"{endpoint}: {outcome}")

    def ask(
        self, endpoint: str, request: dict[str, Any], send: Callable[[dict[str, Any]], Any]
    ) -> None:
        """Ask one send, which returns the image [X, Y, Z], or None where it did not wait for it."""
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
                self.count(endpoint, "answered" if same else f"other bytes: {key}", same)


def draw(chance: random.Random, largest: bool = False) -> dict[str, Any]:
    """Draw a good request; there are few of each kind, so that most are repeated."""
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
    """Keep `clients` clients sending requests within the block."""
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
    """Send requests until `done`, and count them."""
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
    """Close a stream after some signs of progress; return the image where it ended before."""
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
        if seconds > _SHORT:  # so that caches for more requests at once than later are filled
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
        tally.findings.append("other bytes of the good request")
    tally.findings += [f"{name} died" for name in sampler.died()]
    growths = growth(samples)
    report: dict[str, Any] = {
        "minutes": round(seconds / 60, 1),
        "seed": seed,
        "clients": clients,
        **tally.counts,
        "endpoints": dict(tally.endpoints),
        "growth": {
            f"{quantity}: {name}": [round(each.before), round(each.after)]
            for (quantity, name), each in growths.items()
        },
        "not flat": [": ".join(key) for key, each in growths.items() if not each.flat],
        "found": sorted(set(tally.findings))[:20],
    }
    return report, samples


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="scripts/reliability soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="how long [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same requests [0]")
    parser.add_argument("--clients", type=int, default=3, help="at once [%(default)s]")
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw it: .png or .svg")
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
