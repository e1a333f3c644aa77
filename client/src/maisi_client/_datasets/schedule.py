"""Which server makes which row next, so that all servers end as early as possible together.

A rule of list scheduling: the largest row that is left goes to the server that is free first
(longest processing time first; R. L. Graham, "Bounds on multiprocessing timing anomalies", SIAM
J. Appl. Math. 17, 1969). A server compiles its networks for each size, so it gets the rows of one
size in a row, and another server gets some of them only if it ends them earlier in spite of that.
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

_KEPT = 2  # sizes that a network stays compiled for, docs/explanation/architecture.md
_HISTORY = 15  # rows by which a server's speed is known


@dataclass(frozen=True)
class Task:
    """A row to make, its number in the plan, and its cost."""

    number: int
    row: Row
    cost: Cost


@dataclass
class _Server:
    """What a server works on: number of a task -> (task, whether its size is new there)."""

    capacity: Capacity = field(default_factory=Capacity)
    running: dict[int, tuple[Task, bool]] = field(default_factory=dict)
    since: float = 0.0  # when it began the first of those that run
    shapes: deque[Hashable] = field(default_factory=lambda: deque(maxlen=_KEPT))
    paces: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    first_paces: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))


class Schedule:
    """The rows that are left, and what each of `count` servers has.

    The largest row of a size comes first, and the size with the largest row; if `in_order`, the
    first row and the size of the first row. Times are in seconds of `clock`; before a server has
    made a row, they are in units of work. Not safe for threads.
    """

    def __init__(
        self, count: int, in_order: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._servers = [_Server() for _ in range(count)]
        self._in_order, self._clock = in_order, clock
        self._left: dict[Hashable, list[tuple[float, int, Task]]] = {}  # heaps, by shape
        self._work: dict[Hashable, float] = {}  # of the rows that are left
        self._compiling: deque[float] = deque(maxlen=_HISTORY)  # seconds

    def add(self, task: Task) -> None:
        """Add a row."""
        shape, work = task.cost.shape, task.cost.work
        rank = 0.0 if self._in_order else -work
        heappush(self._left.setdefault(shape, []), (rank, task.number, task))
        self._work[shape] = self._work.get(shape, 0.0) + work

    def set_capacity(self, server: int, capacity: Capacity) -> None:
        """Set what a server has published; until then it is one request and another that waits."""
        self._servers[server].capacity = capacity

    def capacity(self, server: int) -> Capacity:
        """Return what a server has published."""
        return self._servers[server].capacity

    def running(self, server: int) -> int:
        """Return the number of rows that a server was given and has not ended."""
        return len(self._servers[server].running)

    def next(self, free: Collection[int], available: Collection[int]) -> tuple[Task, int] | None:
        """Return the next row and one of the `free` servers for it, which is then running.

        `available` servers are those that answer. None if no row is left, or if the others end
        what is left before these could.
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
        """Remove a row from its server, which worked on it for `seconds`; None if it failed."""
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
        """Return the size of the next row of a server, None if it should take none."""
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
        """Return whether the other servers end all that is left before this one is free."""
        capacity = sum(
            self._servers[other].capacity.working * max(backlogs[server] - backlogs[other], 0.0)
            for other in available
        )
        return self._seconds(server, sum(self._work.values())) < capacity

    def _backlog(self, server: int) -> float:
        """Return the seconds until a server has made what it was given."""
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
        """Return the seconds of a unit of work; 0 if not known.

        It is that of this server, else of all, and without a compilation if there was one.
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
