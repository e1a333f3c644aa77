"""Compare the response times of three real servers with a simulation of the same load."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from maisi_client import Client

from bench import overlap
from bench.launcher import Server

from .simulation import Fleet, Kind, Result, capacity, simulate

SERVERS = 3
# Seconds of the stand-ins. They sleep, so that three servers can share the cores of one machine.
_NETWORKS = {"flow": 0.05, "flow_masked": 0.05, "vae_decoder": 0.2, "mask_encoder": 0.0}
_SIDE = 32  # voxels per side of a volume
_STEPS = {"short": 10, "long": 40}  # steps of the sampler, by kind of request
_SHARES = {"short": 0.8, "long": 0.2}
_CALIBRATION = 5  # requests of each kind to an idle server
_REPEATS = 40  # simulations with other seeds, for the range of percentiles


@dataclass(frozen=True)
class Trial:
    """The result of real requests, and of simulations with the same load and service times.

    `rate` is in requests per second.
    """

    kinds: Sequence[Kind]
    rate: float
    real: Result
    simulated: Sequence[Result]

    def percentiles(self, percent: float) -> tuple[float, float, float, float]:
        """Return a percentile in seconds: measured, and its median and range in the simulations.

        The range goes from the 5% quantile to the 95% quantile of the simulations.
        """
        simulated = [result.percentile(percent) for result in self.simulated]
        low, middle, high = np.quantile(simulated, [0.05, 0.5, 0.95])
        return self.real.percentile(percent), float(middle), float(low), float(high)


def run(load: float, count: int, seed: int = 0) -> Trial:
    """Return the result of `count` requests to three servers at the share `load` of capacity."""
    with _servers() as servers:
        with Client(servers[0].grpc) as client:
            _request(client, "short")  # not measured: the first request of a process takes longer
            measured = {kind: _calibrate(client, kind) for kind in _STEPS}
        kinds = [Kind(kind, _SHARES[kind], measured[kind][0]) for kind in _STEPS]
        overhead = float(np.mean([times[1] for times in measured.values()]))
        rate = load * SERVERS * capacity(kinds)
        real = Result(_send([server.grpc for server in servers], rate, count, seed))
    fleet = Fleet(SERVERS, overhead=overhead)
    simulated = [simulate(kinds, fleet, rate, count, seed) for seed in range(_REPEATS)]
    return Trial(kinds, rate, real, simulated)


@contextmanager
def _servers() -> Iterator[list[Server]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-")))
        overlap.write_repository(folder / "models", _SIDE, _NETWORKS)
        yield [
            stack.enter_context(Server(folder / "models", folder / f"log-{number}"))
            for number in range(SERVERS)
        ]


def _request(client: Client, kind: str) -> tuple[float, float]:
    """Return the seconds of the server's work on a request, and the seconds until the answer."""
    started = time.monotonic()
    volume = client.generate(size=[_SIDE] * 3, modality="mri_t1", steps=_STEPS[kind], seed=1)
    seconds = volume.report["seconds"]
    return seconds["total"] - seconds["waiting"], time.monotonic() - started


def _calibrate(client: Client, kind: str) -> tuple[list[float], float]:
    """Return the seconds of work of some requests, and the mean seconds that an answer adds."""
    times = [_request(client, kind) for _ in range(_CALIBRATION)]
    work = [seconds for seconds, _ in times]
    return work, float(np.mean([total for _, total in times]) - np.mean(work))


def _send(urls: Sequence[str], rate: float, count: int, seed: int) -> list[float]:
    """Send `count` requests, `rate` per second on average; return the seconds of each request.

    The first tenth of the requests is left out, as in the simulation, because the servers are empty
    at first.
    """
    random = np.random.default_rng(seed)
    kinds = random.choice(list(_SHARES), count, p=list(_SHARES.values()))
    arrivals = np.cumsum(random.exponential(1 / rate, count))
    with Client(",".join(urls)) as client, ThreadPoolExecutor(count) as pool:
        started = time.monotonic()

        def answer(number: int) -> float:
            return _request(client, str(kinds[number]))[1]

        answers = []
        for number, arrival in enumerate(arrivals):
            time.sleep(max(0.0, started + float(arrival) - time.monotonic()))
            answers.append(pool.submit(answer, number))
        return [answer.result() for answer in answers][count // 10 :]
