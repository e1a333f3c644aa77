"""Simulate servers, requests and failures of servers as discrete events (SimPy).

The simulated servers follow the rules of `backends/maisi/gate.py`:

- One request at a time uses a device.
- The order of requests is their arrival plus their expected seconds.
- A request that uses a device pauses for a request that is before it in this order. In the
  simulation it pauses at any time, on a server only between two steps.
- A request that arrives at a full queue is refused.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Any, TypeAlias

import numpy as np
import simpy
from simpy.resources.resource import Preempted

KEPT = 2  # sizes for which a server keeps compiled networks, docs/explanation/architecture.md
_RETRIES = 4  # attempts of a request, including the first, as by default in our client
_WARM_UP = 0.1  # share of the requests that does not count, because the servers are empty at first

Events: TypeAlias = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Kind:
    """Requests of one size.

    `share` is their share of all requests. `seconds` are samples of the time that a server works on
    a request. A request takes `compile_seconds` more on a server that has no compiled networks for
    its size.
    """

    name: str
    share: float
    seconds: Sequence[float]
    compile_seconds: float = 0.0


@dataclass(frozen=True)
class Fleet:
    """A number of servers with `devices` devices each; `waiting` requests may wait at a server.

    A server fails after `mtbf` seconds on average and is ready again after `repair` seconds. The
    requests on a server that fails are sent again to other servers. If `scattered` is false, a
    request is sent to the server with the fewest requests, as one client does. If it is true, a
    request is sent to a random server, as many independent clients do. `overhead` is the time of an
    answer in seconds, beyond the server's work.
    """

    servers: int
    devices: int = 1
    waiting: float = math.inf
    mtbf: float = math.inf
    repair: float = 300.0
    scattered: bool = False
    overhead: float = 0.0


@dataclass
class Result:
    """The seconds of each answered request, and the number of refused requests.

    `queue` has, for each request, the number of requests that waited at its server on its arrival.
    `utilisation` is the share of the time in which the devices worked.
    """

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    queue: list[int] = field(default_factory=list)
    utilisation: float = 0.0

    def percentile(self, percent: float) -> float:
        """Return a percentile of the seconds; it is infinite if it falls on a refused request."""
        total = len(self.seconds) + self.refused
        rank = math.ceil(percent / 100 * total)
        return sorted(self.seconds)[rank - 1] if 0 < rank <= len(self.seconds) else math.inf


class _Server:
    def __init__(self, environment: simpy.Environment, fleet: Fleet) -> None:
        self.turns = simpy.PreemptiveResource(environment, fleet.devices)
        self.present: set[simpy.Process] = set()
        self.shapes: deque[str] = deque(maxlen=KEPT)
        self.up = True


class _Simulation:
    def __init__(self, kinds: Sequence[Kind], fleet: Fleet, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.environment = simpy.Environment()
        self.kinds, self.fleet, self.result = kinds, fleet, Result()
        self.means = [float(np.mean(kind.seconds)) for kind in kinds]
        self.servers = [_Server(self.environment, fleet) for _ in range(fleet.servers)]
        self.loads: list[tuple[int, float, int]] = []  # heap whose entries may be out of date
        self.worked, self.ended = 0.0, 0
        for number in range(fleet.servers):
            self.enter(number)
            if fleet.mtbf < math.inf:
                self.environment.process(self.failures(number))

    def enter(self, number: int) -> None:
        """Store a server's number of requests, for the choice of the next server."""
        load = len(self.servers[number].present)
        heappush(self.loads, (load, float(self.random.random()), number))

    def choose(self) -> int | None:
        """Return the number of a server that is up and not full, or None if there is none."""
        most = self.fleet.devices + self.fleet.waiting
        if self.fleet.scattered:
            for number in self.random.integers(len(self.servers), size=_RETRIES).tolist():
                server = self.servers[number]
                if server.up and len(server.present) < most:
                    return int(number)
            return None
        while self.loads:
            load, _, number = self.loads[0]
            server = self.servers[number]
            if server.up and load == len(server.present):
                return number if load < most else None
            heappop(self.loads)
        return None

    def failures(self, number: int) -> Events:
        """Make a server fail and recover at random times."""
        server = self.servers[number]
        while True:
            yield self.environment.timeout(self.random.exponential(self.fleet.mtbf))
            server.up = False
            server.shapes.clear()
            for request in [*server.present]:
                request.interrupt("failed")
            yield self.environment.timeout(self.fleet.repair)
            server.up = True
            self.enter(number)

    def arrivals(self, rate: float, count: int) -> Events:
        """Send `count` requests, `rate` per second on average (a Poisson process)."""
        shares = np.array([kind.share for kind in self.kinds], float)
        picks = self.random.choice(len(self.kinds), count, p=shares / shares.sum())
        for number, gap in enumerate(self.random.exponential(1 / rate, count)):
            yield self.environment.timeout(float(gap))
            counts = number >= _WARM_UP * count
            self.environment.process(self.request(int(picks[number]), counts))

    def request(self, pick: int, counts: bool) -> Events:
        """Send a request until it is answered or its last attempt is refused."""
        kind, arrived = self.kinds[pick], self.environment.now
        seconds = float(self.random.choice(kind.seconds))
        attempt = 0
        while attempt < _RETRIES:
            if (number := self.choose()) is None:
                attempt += 1
                yield self.environment.timeout(self.means[pick])
                continue
            server, process = self.servers[number], self.environment.active_process
            assert process is not None
            if counts and not attempt:
                self.result.queue.append(max(len(server.present) - self.fleet.devices, 0))
            server.present.add(process)
            self.enter(number)
            try:
                rank = self.environment.now + self.means[pick]
                yield from self.work(server, kind, seconds, rank)
            except simpy.Interrupt:  # the server failed
                continue
            finally:
                server.present.remove(process)
                self.enter(number)
            if counts:
                elapsed = self.environment.now - arrived
                self.result.seconds.append(elapsed + self.fleet.overhead)
            self.ended += 1
            return
        self.result.refused += counts
        self.ended += 1

    def work(self, server: _Server, kind: Kind, seconds: float, rank: float) -> Events:
        """Use a device for `seconds`; raise Interrupt if the server fails."""
        left = seconds
        while left > 0:
            with server.turns.request(priority=rank) as turn:  # type: ignore[arg-type]
                yield turn
                if kind.name not in server.shapes:
                    left += kind.compile_seconds
                else:
                    server.shapes.remove(kind.name)
                server.shapes.append(kind.name)
                began = self.environment.now
                try:
                    yield self.environment.timeout(left)
                    left = 0.0  # a rest from rounding could be too short to advance the time
                except simpy.Interrupt as interrupt:
                    left -= self.environment.now - began
                    if not isinstance(interrupt.cause, Preempted):
                        raise
                finally:
                    self.worked += self.environment.now - began


def simulate(kinds: Sequence[Kind], fleet: Fleet, rate: float, count: int, seed: int = 0) -> Result:
    """Return the result of `count` requests that arrive at `rate` per second on average."""
    simulation = _Simulation(kinds, fleet, seed)
    environment = simulation.environment
    environment.process(simulation.arrivals(rate, count))
    while simulation.ended < count:
        environment.step()
    devices = fleet.servers * fleet.devices
    simulation.result.utilisation = simulation.worked / (devices * environment.now)
    return simulation.result


def capacity(kinds: Sequence[Kind]) -> float:
    """Return the largest number of requests per second of one device, without compilations."""
    total = sum(kind.share for kind in kinds)
    return total / sum(kind.share * float(np.mean(kind.seconds)) for kind in kinds)


def queue_limit(result: Result, refused: float = 1e-3) -> int:
    """Return the smallest length of the queue that refuses at most the share `refused`."""
    return max(math.ceil(np.quantile(result.queue, 1 - refused, method="higher")), 1)


def replicas(
    kinds: Sequence[Kind], fleet: Fleet, rate: float, p95: float, count: int
) -> tuple[int, Result]:
    """Return the smallest number of servers that keeps `p95` seconds, and the result.

    The capacity of the servers is above the load. The search assumes that the p95 falls with more
    servers. Raises ValueError if no number of servers keeps `p95` seconds.
    """
    slowest = [second for kind in kinds for second in kind.seconds]
    if p95 <= float(np.quantile(slowest, 0.5)) + fleet.overhead:
        raise ValueError(
            f"p95: {p95:g} s is too short; half of the requests take that long without a queue"
        )
    too_few = math.floor(rate / (capacity(kinds) * fleet.devices))
    enough, step = too_few + 1, 1
    while (result := simulate(kinds, replace(fleet, servers=enough), rate, count)).percentile(
        95
    ) > p95:
        if step > 10 * enough + 100:
            raise ValueError(f"p95: no number of servers keeps {p95:g} s at this load")
        too_few, enough, step = enough, enough + step, 2 * step
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        middle_result = simulate(kinds, replace(fleet, servers=middle), rate, count)
        if middle_result.percentile(95) > p95:
            too_few = middle
        else:
            enough, result = middle, middle_result
    return enough, result
