"""A discrete-event simulation of servers, the requests that arrive, and their failures (SimPy).

A server is simulated as `backends/maisi/gate.py` describes it: one request works on each device,
the order is arrival plus expected seconds, a request that works pauses for one that comes before
it, and one that finds the queue full is refused. A pause is possible at any time here, on the
server between two steps.
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

KEPT = 2  # sizes that a server stays compiled for, docs/explanation/architecture.md
_RETRIES = 4  # of a refused request, as our client by default, and the first attempt
_WARM_UP = 0.1  # of the requests, which do not count: the servers are empty at first

Events: TypeAlias = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Kind:
    """Requests of one size: their share of all, and seconds that a server worked on some of them.

    The first one of a size takes `compile_seconds` more on a server that has made others since.
    """

    name: str
    share: float
    seconds: Sequence[float]
    compile_seconds: float = 0.0


@dataclass(frozen=True)
class Fleet:
    """So many servers with `devices` each; `waiting` requests may wait at each.

    A server fails after `mtbf` seconds on average, loses its requests, which are sent again to
    others, and is back after `repair` seconds. A request goes to the server with the fewest
    requests, as those of one client do, or to any if `scattered`, as those of many clients.
    `overhead` are the seconds of an answer beside the server's work.
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
    """Seconds of each request that was answered, and how many were not, as all queues were full.

    `queue` has the number of requests that waited at its server when each one came, `utilisation`
    is the share of the devices' time in which they worked.
    """

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    queue: list[int] = field(default_factory=list)
    utilisation: float = 0.0

    def percentile(self, percent: float) -> float:
        """Return a percentile of the seconds; infinite if more requests than that were refused."""
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
        self.loads: list[tuple[int, float, int]] = []  # heap; an entry may be out of date
        self.worked, self.ended = 0.0, 0
        for number in range(fleet.servers):
            self.enter(number)
            if fleet.mtbf < math.inf:
                self.environment.process(self.failures(number))

    def enter(self, number: int) -> None:
        """Note a server's number of requests for the choice of the next one."""
        load = len(self.servers[number].present)
        heappush(self.loads, (load, float(self.random.random()), number))

    def choose(self) -> int | None:
        """Return a server that is up and not full; None if there is none."""
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
        """Let a server fail from time to time."""
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
        """Send `count` requests, `rate` a second on average (a Poisson process)."""
        shares = np.array([kind.share for kind in self.kinds], float)
        picks = self.random.choice(len(self.kinds), count, p=shares / shares.sum())
        for number, gap in enumerate(self.random.exponential(1 / rate, count)):
            yield self.environment.timeout(float(gap))
            counts = number >= _WARM_UP * count
            self.environment.process(self.request(int(picks[number]), counts))

    def request(self, pick: int, counts: bool) -> Events:
        """Send a request until it is answered, or refused too often."""
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
        """Occupy a device for so many seconds; raises Interrupt if the server fails."""
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
                    left = 0.0  # exactly: a rest from rounding would take no time, for ever
                except simpy.Interrupt as interrupt:
                    left -= self.environment.now - began
                    if not isinstance(interrupt.cause, Preempted):
                        raise
                finally:
                    self.worked += self.environment.now - began


def simulate(kinds: Sequence[Kind], fleet: Fleet, rate: float, count: int, seed: int = 0) -> Result:
    """Return what becomes of `count` requests that arrive, `rate` a second on average."""
    simulation = _Simulation(kinds, fleet, seed)
    environment = simulation.environment
    environment.process(simulation.arrivals(rate, count))
    while simulation.ended < count:
        environment.step()
    devices = fleet.servers * fleet.devices
    simulation.result.utilisation = simulation.worked / (devices * environment.now)
    return simulation.result


def capacity(kinds: Sequence[Kind]) -> float:
    """Return the most requests a second of one device, without compilations."""
    total = sum(kind.share for kind in kinds)
    return total / sum(kind.share * float(np.mean(kind.seconds)) for kind in kinds)


def queue_limit(result: Result, refused: float = 1e-3) -> int:
    """Return the smallest queue that was full for at most this share of the requests."""
    return max(math.ceil(np.quantile(result.queue, 1 - refused, method="higher")), 1)


def replicas(
    kinds: Sequence[Kind], fleet: Fleet, rate: float, p95: float, count: int
) -> tuple[int, Result]:
    """Return the fewest servers that keep `p95` seconds, and their result.

    Their capacity is above the load. The search assumes that the p95 falls with more servers.
    Raises ValueError if even requests that never wait take longer.
    """
    slowest = [second for kind in kinds for second in kind.seconds]
    if p95 <= float(np.quantile(slowest, 0.5)) + fleet.overhead:
        raise ValueError(f"p95 is {p95:g} s; half of the requests take as long without a queue")
    too_few = math.floor(rate / (capacity(kinds) * fleet.devices))
    enough, step = too_few + 1, 1
    while (result := simulate(kinds, replace(fleet, servers=enough), rate, count)).percentile(
        95
    ) > p95:
        if step > 10 * enough + 100:
            raise ValueError(f"p95 is {p95:g} s; no number of servers keeps it at this load")
        too_few, enough, step = enough, enough + step, 2 * step
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        tried = simulate(kinds, replace(fleet, servers=middle), rate, count)
        if tried.percentile(95) > p95:
            too_few = middle
        else:
            enough, result = middle, tried
    return enough, result
