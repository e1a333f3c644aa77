"""The servers of a client, kept full with the rows of a plan."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeAlias, TypeVar

from .._client import Client
from .._errors import InvalidRequest, MaisiError
from .._variant import Variant
from .._volume import Progress, Volume
from .costs import cost
from .row import Row
from .schedule import Schedule, Task

_T = TypeVar("_T")
# Of this process at a server, for each that it works on: one in the networks, one before or after
# them, one on its way. docs/how-to/datasets.md says so.
IN_FLIGHT = 3
_MOST_THREADS = 1024
_READ_AHEAD = 1000  # rows whose masks' headers are read before the first ones begin

Made: TypeAlias = Callable[[list[Volume]], None]


class NoLongerNeeded(Exception):
    """The volume is no longer needed."""


class Fleet(Generic[_T]):
    """Makes rows by `make(row, client, made, stopped)` in threads; `results` has each one's end.

    `client` is one that asks the server which the row is meant for. `make` calls `made(volumes)`
    as soon as no server works on the row any more. A result is the number of a row with what
    `make` returned, or with the exception that it raised. `stopped` is set at the end of the
    context, which waits for the threads.

    A server has `IN_FLIGHT` rows for each request that it says it works on, within its queue; with
    `jobs`, so many are in flight at all servers together. If `in_order`, the first rows come first,
    else the largest; see `Schedule`.
    """

    def __init__(
        self,
        client: Client,
        make: Callable[[Row, Client, Made, threading.Event], _T],
        *,
        jobs: int | None = None,
        in_order: bool = False,
    ) -> None:
        self._stopped = threading.Event()
        self.results: queue.SimpleQueue[tuple[int, _T | BaseException]] = queue.SimpleQueue()
        self._client, self._make, self._jobs = client, make, jobs
        self._servers = client._pool.servers
        self._clients = [client._preferring(server) for server in self._servers]
        self._schedule = Schedule(len(self._servers), in_order)
        self._lock = threading.Lock()
        self._unfinished = 0  # rows whose threads run
        self._variants: Mapping[str, Variant] | None = None
        self._started, self._worked = time.monotonic(), 0.0
        self._threads = ThreadPoolExecutor(_MOST_THREADS)

    def __enter__(self) -> Fleet[_T]:
        for number in range(len(self._servers)):
            self._threads.submit(self._ask_capacity, number)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._stopped.set()
        self._threads.shutdown()

    def add(self, rows: Mapping[int, Row]) -> None:
        """Add rows by their numbers; those that servers are free for begin."""
        if self._variants is None:
            try:
                self._variants = self._client.info()
            except MaisiError:  # their requests will say so
                self._variants = {}
        for count, (number, row) in enumerate(rows.items(), 1):
            task = Task(number, row, cost(row, self._variants))
            with self._lock:
                self._schedule.add(task)
            if count % _READ_AHEAD == 0:
                self._dispatch()
        self._dispatch()

    @property
    def in_flight(self) -> int:
        """The number of rows that the servers may have at a time."""
        with self._lock:
            return self._jobs or sum(map(self._limit, range(len(self._servers))))

    @property
    def utilisation(self) -> float:
        """The share of the servers' time so far in which they worked on these rows, 0 to 1.

        It counts what the reports say of rows that were made, at the servers that publish a
        capacity for more than one request at a time, for each of these.
        """
        with self._lock:
            working = sum(
                self._schedule.capacity(number).working for number in range(len(self._servers))
            )
            seconds = time.monotonic() - self._started
            return min(self._worked / (working * seconds), 1.0) if seconds > 0 else 0.0

    def _ask_capacity(self, number: int) -> None:
        try:
            capacity = self._client._capacity(self._servers[number])
        except MaisiError:  # as of a server that publishes none
            return
        with self._lock:
            self._schedule.set_capacity(number, capacity)
        self._dispatch()

    def _dispatch(self) -> None:
        with self._lock:
            while not self._stopped.is_set():
                free, available = self._free()
                if (choice := self._schedule.next(free, available)) is None:
                    return
                self._unfinished += 1
                self._threads.submit(self._run, *choice)

    def _free(self) -> tuple[list[int], list[int]]:
        """Return the servers that may get a row, and those that answer, as far as is known."""
        now, count = time.monotonic(), range(len(self._servers))
        available = [one for one in count if self._servers[one].rests_until <= now] or list(count)
        in_flight = sum(map(self._schedule.running, count))
        limits = [self._limit(number) for number in count]
        # Volumes are not made much faster than they are written.
        if (self._jobs and in_flight >= self._jobs) or self._unfinished >= 2 * sum(limits):
            return [], available
        return [one for one in available if self._schedule.running(one) < limits[one]], available

    def _limit(self, number: int) -> int:
        """Return how many rows a server may have now."""
        server, capacity = self._servers[number], self._schedule.capacity(number)
        if self._jobs:
            return self._jobs
        if server.failures:
            return 1
        limit = min(IN_FLIGHT * capacity.working, capacity.working + capacity.waiting)
        return max(limit - server.refusals, 1)

    def _run(self, task: Task, server: int) -> None:
        ended = False

        def end(volumes: list[Volume]) -> None:
            nonlocal ended
            if ended:
                return
            ended = True
            seconds = [working_seconds(volume) for volume in volumes]
            with self._lock:
                self._worked += sum(filter(None, seconds))
                all_known = seconds and None not in seconds
                self._schedule.end(server, task, sum(filter(None, seconds)) if all_known else None)
            self._dispatch()

        result: _T | BaseException
        try:
            result = self._make(task.row, self._clients[server], end, self._stopped)
        except BaseException as error:
            result = error
        with self._lock:
            self._unfinished -= 1
        end([])
        self._dispatch()
        self.results.put((task.number, result))


def working_seconds(volume: Volume) -> float | None:
    """Return the seconds that a server worked on a volume, by the report; None if it has none."""
    seconds: Any = volume.report.get("seconds")
    if not isinstance(seconds, dict):
        return None
    total, waiting = seconds.get("total"), seconds.get("waiting")
    if not isinstance(total, (int, float)) or not isinstance(waiting, (int, float)):
        return None
    return max(float(total - waiting), 0.0)


def insist(row: Row, client: Client, attempts: int, stopped: threading.Event) -> Volume:
    """Make a row in up to `attempts` attempts; a refused request is not repeated.

    Raises the last `MaisiError`, or `NoLongerNeeded` once `stopped` is set, which cancels the
    request.
    """

    def check_stopped(progress: Progress | None = None) -> None:
        if stopped.is_set():
            raise NoLongerNeeded

    for remaining in reversed(range(attempts)):
        check_stopped()
        try:
            return client.generate(**row.arguments, on_progress=check_stopped)
        except MaisiError as error:
            if isinstance(error, InvalidRequest) or not remaining:
                raise
    raise AssertionError("an attempt ends with a volume or raises")
