"""Choose the next row for each server, so that the last server ends as early as possible.

The rule is longest processing time first: the server that is free first gets the largest remaining
row (R. L. Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17, 1969). A
server compiles its networks for each size. It therefore gets the rows of one size one after
another. Another server gets rows of this size only if it ends them earlier even after it has
compiled its networks.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from .._variant import Capacity
from .costs import Cost
from .row import Row

_KEPT = 2  # sizes that every network stays compiled for; see docs/explanation/architecture.md
_HISTORY = 15  # latest rows that a server's speed is estimated from


@dataclass(frozen=True)
class Task:
    """A row to make, its number in the plan, and its cost."""

    number: int
    row: Row
    cost: Cost


@dataclass
class _Server:
    """The state of a server.

    `running` maps the number of each running task to the task and whether its size is new to the
    server. `paces` and `first_paces` are seconds per unit of work, of tasks with a known and with a
    new size.
    """

    capacity: Capacity = field(default_factory=Capacity)
    running: dict[int, tuple[Task, bool]] = field(default_factory=dict)
    since: float = 0.0  # the time when the server last became busy or ended a task
    shapes: deque[Hashable] = field(default_factory=lambda: deque(maxlen=_KEPT))  # compiled ones
    paces: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    first_paces: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))


class Schedule:
    """The remaining rows, and the running rows of each of `count` servers.

    The size with the largest row comes first, and within a size the largest row. With `in_order`,
    the size with the first row comes first, and within a size the first row. Times are in seconds
    of `clock`, or in units of work until a server has made a row. The class is not thread-safe.
    """

    def __init__(
        self, count: int, in_order: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._servers = [_Server() for _ in range(count)]
        self._in_order, self._clock = in_order, clock
        self._left: dict[Hashable, list[tuple[float, int, Task]]] = {}  # heaps of rows, by shape
        self._work: dict[Hashable, float] = {}  # sum over the remaining rows, by shape
        self._compiling: deque[float] = deque(maxlen=_HISTORY)  # seconds

    def add(self, task: Task) -> None:
        """Add a row."""
        shape, work = task.cost.shape, task.cost.work
        rank = 0.0 if self._in_order else -work
        heappush(self._left.setdefault(shape, []), (rank, task.number, task))
        self._work[shape] = self._work.get(shape, 0.0) + work

    def set_capacity(self, server: int, capacity: Capacity) -> None:
        """Set the published capacity of a server; the default is that of `Capacity`."""
        self._servers[server].capacity = capacity

    def capacity(self, server: int) -> Capacity:
        """Return the published capacity of a server, or the default."""
        return self._servers[server].capacity

    def running(self, server: int) -> int:
        """Return the number of rows that run on a server."""
        return len(self._servers[server].running)

    def next(self, free: Collection[int], available: Collection[int]) -> tuple[Task, int] | None:
        """Return the next row and the server for it, one of `free`, and mark the row as running.

        `available` are the servers that answer. Return None if no row is left, or if other servers
        will end the remaining rows earlier than a free server could.
        """
        if not self._left:
            return None
        backlogs = {server: self._backlog(server) for server in {*free, *available}}
        for server in sorted(free, key=lambda one: (backlogs[one], self.running(one), one)):
            idle = self.running(server) < self._servers[server].capacity.working
            if not idle and self._others_suffice(server, available, backlogs):
                continue
            shape = self._choose(server, available, backlogs)
            if shape is not None:
                return self._take(server, shape), server
        return None

    def end(self, server: int, task: Task, seconds: float | None) -> None:
        """Remove a row from its server, which worked on it for `seconds`; None if unknown."""
        state = self._servers[server]
        _, new = state.running.pop(task.number)
        state.since = self._clock()
        if seconds is None or not task.cost.work:
            return
        if new and any(one.paces for one in self._servers):
            self._compiling.append(max(seconds - self._seconds(server, task.cost.work), 0.0))
        (state.first_paces if new else state.paces).append(seconds / task.cost.work)

    def _take(self, server: int, shape: Hashable) -> Task:
        state, heap = self._servers[server], self._left[shape]
        task = heappop(heap)[2]
        self._work[shape] -= task.cost.work
        if not heap:
            del self._left[shape], self._work[shape]
        if not state.running:
            state.since = self._clock()
        state.running[task.number] = task, shape not in state.shapes
        if shape in state.shapes:
            state.shapes.remove(shape)
        state.shapes.append(shape)
        return task

    def _choose(
        self, server: int, available: Collection[int], backlogs: dict[int, float]
    ) -> Hashable | None:
        """Return the shape of the next row for a server; None if it should get no row."""
        own = self._servers[server].shapes
        for shape in reversed(own):
            if shape in self._left:
                return shape
        owners: dict[Hashable, list[int]] = {}
        for other in available:
            if other != server:
                for shape in self._servers[other].shapes:
                    owners.setdefault(shape, []).append(other)
        unowned = [shape for shape in self._left if shape not in owners]
        if unowned:
            return min(unowned, key=self._rank)
        ends = {
            shape: min(backlogs[owner] for owner in owners[shape])
            + self._seconds(owners[shape][0], self._work[shape])
            / sum(self._servers[owner].capacity.working for owner in owners[shape])
            for shape in self._left
        }
        shape = max(ends, key=lambda one: ends[one])
        first = self._seconds(server, self._left[shape][0][2].cost.work)
        ends_here = backlogs[server] + first + self._compile_seconds
        return shape if ends_here <= ends[shape] else None

    def _rank(self, shape: Hashable) -> tuple[float, int]:
        rank, number, _ = self._left[shape][0]
        return rank, number

    def _others_suffice(
        self, server: int, available: Collection[int], backlogs: dict[int, float]
    ) -> bool:
        """Return whether the other servers will end all remaining rows before this one is free."""
        capacity = sum(
            self._servers[other].capacity.working * max(backlogs[server] - backlogs[other], 0.0)
            for other in available
        )
        return self._seconds(server, sum(self._work.values())) < capacity

    def _backlog(self, server: int) -> float:
        """Return the seconds until a server has made its running rows."""
        state = self._servers[server]
        seconds = sum(
            self._seconds(server, task.cost.work) + new * self._compile_seconds
            for task, new in state.running.values()
        )
        elapsed = self._clock() - state.since if state.running and self._pace(server) else 0.0
        return max(seconds / state.capacity.working - elapsed, 0.0)

    def _seconds(self, server: int, work: float) -> float:
        return work * (self._pace(server) or 1.0)

    def _pace(self, server: int) -> float:
        """Return the median seconds per unit of work; 0 if unknown.

        The measurements are those of this server, otherwise of all servers. Measurements without a
        compilation are preferred to those with one.
        """
        own, all_servers = self._servers[server], self._servers
        paces = (
            own.paces
            or [pace for other in all_servers for pace in other.paces]
            or own.first_paces
            or [pace for other in all_servers for pace in other.first_paces]
        )
        return statistics.median(paces) if paces else 0.0

    @property
    def _compile_seconds(self) -> float:
        return statistics.median(self._compiling) if self._compiling else 0.0
