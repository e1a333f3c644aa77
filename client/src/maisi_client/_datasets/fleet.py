"""Keep all servers of a client busy with the rows of a plan."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeAlias, TypeVar

from .._client import Client
from .._errors import InvalidRequest, MaisiError, Timeout, is_transient
from .._variant import Variant
from .._volume import Progress, Volume
from .costs import cost
from .row import Row
from .schedule import Schedule, Task

_T = TypeVar("_T")
# Rows in flight at a server for each request that the server processes at a time: one in the
# networks, one before or after them, one in transfer. docs/how-to/datasets.md states this number.
IN_FLIGHT = 3
_MOST_THREADS = 1024
_READ_AHEAD = 1000  # rows whose headers are read before the first rows start

Release: TypeAlias = Callable[[list[Volume]], None]


class NoLongerNeeded(BaseException):
    """Cancels a request whose volume is no longer needed; no handler of errors may catch it."""


class Fleet(Generic[_T]):
    """Make rows in threads, each by a call of `make(row, client, release, stopped)`.

    `client` prefers the server that was chosen for the row. `make` calls `release(volumes)` as soon
    as no server works on the row any more. `stopped` is set at the end of the context, which then
    waits for the threads. `results` receives a pair for each row: the number of the row, and the
    value that `make` returned or the exception that it raised.

    A server has at most `IN_FLIGHT` rows for each request that it processes at a time, and at most
    as many rows as it processes and queues. With `jobs`, all servers together have at most that
    many rows. With `in_order`, the first rows of the plan start first, otherwise the largest rows;
    see `Schedule`.
    """

    def __init__(
        self,
        client: Client,
        make: Callable[[Row, Client, Release, threading.Event], _T],
        *,
        jobs: int | None = None,
        in_order: bool = False,
    ) -> None:
        self._stopped = threading.Event()
        self.results: queue.SimpleQueue[tuple[int, _T | BaseException]] = queue.SimpleQueue()
        self._client, self._make, self._jobs = client, make, jobs
        self._servers = client._pool.servers
        self._clients = [client._preferring(server, self._check) for server in self._servers]
        self._schedule = Schedule(len(self._servers), in_order)
        self._lock = threading.Lock()
        self._unfinished = 0  # rows whose threads have not ended
        self._unanswered: set[int] = set()  # servers that gave no answer about their capacity
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
        """Add rows, by number, and start rows while servers are free."""
        if self._variants is None:
            try:
                self._variants = self._client.info()
            except MaisiError:  # the requests of the rows will report it
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
        """The number of rows that all servers together may have at a time."""
        with self._lock:
            return self._jobs or sum(map(self._limit, range(len(self._servers))))

    @property
    def utilisation(self) -> float:
        """The fraction of the servers' time so far that they spent on these rows, 0 to 1.

        The time spent comes from the reports of the volumes made so far. A server that processes
        N requests at a time has N seconds in each second.
        """
        with self._lock:
            working = sum(
                self._schedule.capacity(number).working for number in range(len(self._servers))
            )
            seconds = time.monotonic() - self._started
            return min(self._worked / (working * seconds), 1.0) if seconds > 0 else 0.0

    def _check(self) -> None:
        """Raise `NoLongerNeeded` after the end of the context."""
        if self._stopped.is_set():
            raise NoLongerNeeded

    def _ask_capacity(self, number: int) -> None:
        """Ask a server for its capacity; without an answer, ask again after its next row."""
        try:
            capacity = self._clients[number]._capacity(self._servers[number])
        except MaisiError as error:
            if is_transient(error) or isinstance(error, Timeout):
                with self._lock:
                    self._unanswered.add(number)
            return  # keep the default
        with self._lock:
            self._schedule.set_capacity(number, capacity)
        self._dispatch()

    def _answers_again(self, number: int) -> bool:
        """Return whether a server has an unknown capacity and answers; then it is asked again."""
        with self._lock:
            answers = number in self._unanswered and not self._servers[number].failures
            if not answers or self._stopped.is_set():
                return False
            self._unanswered.remove(number)
            return True

    def _dispatch(self) -> None:
        """Start rows while a server is free."""
        with self._lock:
            while not self._stopped.is_set():
                free, available = self._free()
                if (choice := self._schedule.next(free, available)) is None:
                    return
                self._unfinished += 1
                self._threads.submit(self._run, *choice)

    def _free(self) -> tuple[list[int], list[int]]:
        """Return the numbers of the servers that may get a row, and of those that may answer."""
        now, servers = time.monotonic(), range(len(self._servers))
        available = [n for n in servers if self._servers[n].rests_until <= now] or list(servers)
        in_flight = sum(map(self._schedule.running, servers))
        limits = [self._limit(number) for number in servers]
        # The second condition limits the number of volumes in memory that are being written.
        if (self._jobs and in_flight >= self._jobs) or self._unfinished >= 2 * sum(limits):
            return [], available
        return [n for n in available if self._schedule.running(n) < limits[n]], available

    def _limit(self, number: int) -> int:
        """Return the number of rows that a server may have now."""
        server, capacity = self._servers[number], self._schedule.capacity(number)
        if self._jobs:
            return self._jobs
        if server.failures:
            return 1
        limit = min(IN_FLIGHT * capacity.working, capacity.working + capacity.waiting)
        return max(limit - server.refusals, 1)

    def _run(self, task: Task, server: int) -> None:
        """Make a row on a server, and put its result into `results`."""
        released = False

        def release(volumes: list[Volume]) -> None:
            nonlocal released
            if released:
                return
            released = True
            seconds = [working_seconds(volume) for volume in volumes]
            with self._lock:
                self._worked += sum(filter(None, seconds))
                all_known = seconds and None not in seconds
                self._schedule.end(server, task, sum(filter(None, seconds)) if all_known else None)
            self._dispatch()

        result: _T | BaseException
        try:
            result = self._make(task.row, self._clients[server], release, self._stopped)
        except BaseException as error:
            result = error
        with self._lock:
            self._unfinished -= 1
        release([])
        self._dispatch()
        self.results.put((task.number, result))
        if self._answers_again(server):
            self._ask_capacity(server)


def working_seconds(volume: Volume) -> float | None:
    """Return the seconds that the server worked on a volume, from its report; None if unknown."""
    seconds: Any = volume.report.get("seconds")
    if not isinstance(seconds, dict):
        return None
    total, waiting = seconds.get("total"), seconds.get("waiting")
    if not isinstance(total, (int, float)) or not isinstance(waiting, (int, float)):
        return None
    return max(float(total - waiting), 0.0)


def insist(row: Row, client: Client, attempts: int, stopped: threading.Event) -> Volume:
    """Return the volume of a row after at most `attempts` attempts.

    An `InvalidRequest` is raised at once, any other `MaisiError` after the last attempt. When
    `stopped` is set, the request is cancelled and `NoLongerNeeded` is raised.
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
