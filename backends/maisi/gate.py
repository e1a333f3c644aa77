"""The queue before the networks of a variant: which request works next, and which is refused.

At most one request a device works at a time. The others wait, in the order of arrival time +
expected seconds of work. So a short request overtakes a long one that arrived a little earlier, and
a long one is overtaken only by requests that arrive within its own expected time: neither starves.
Between two steps a working request pauses for a shorter one. At most two requests for each device
are started at a time: one that works and one that is paused.

A request is refused at once when the queue is full, which model.py asks before it starts a thread,
and when it surely cannot end within its time, which stream.py asks once the work is known.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from . import tracing
from .errors import InvalidRequest, Overloaded, TimeUp

WAITING = "waiting"  # the stage of a request that waits for its turn
_POLL = 0.25  # seconds between two checks whether the caller still waits
_STARTED = 2  # requests that may be started for each device, one of them paused
_RETRY = 5.0  # seconds after which to try again, where no work is estimated


class Ticket:
    """A request in the queue; times in seconds, of `time.monotonic()`.

    `expected`: the likely time of its work, which orders the queue; `minimum`: the time that its
    work surely takes, by which requests are refused; both 0 where they are not known. `progress`:
    the share of its work that is done, 0..1; `waited`: how long it waited and was paused. `ready`:
    it may start; `started`: it has.
    """

    def __init__(self, gate: Gate, time_limit: float) -> None:
        """Arrive now; the request has to end within `time_limit` seconds."""
        self.arrived = time.monotonic()
        self.time_limit = time_limit
        self.expected = self.minimum = self.progress = self.waited = 0.0
        self.ready = self.started = False
        self._gate = gate

    @property
    def rank(self) -> float:
        """The ticket with the lowest rank works next."""
        return self.arrived + self.expected

    @property
    def remaining(self) -> float:
        """Seconds that the rest of its work surely takes."""
        return self.minimum * (1 - self.progress)

    def clock(self) -> float:
        """Return a time that stands still while the request waits."""
        return time.monotonic() - self.waited

    def expect(self, expected: float | None, minimum: float | None) -> None:
        """Set the likely and the least seconds of the work; None where they are not known.

        Raises Overloaded where the remaining time is too short for it, and InvalidRequest where the
        whole time limit is.
        """
        self.expected, self.minimum = expected or 0.0, minimum or 0.0
        self._gate.check_time_limit(self)

    def begin(self, while_waiting: Callable[[], None]) -> None:
        """Wait for the request's turn.

        `while_waiting` is called every quarter of a second and raises when the caller has gone.
        Raises TimeUp.
        """
        self._gate.wait_for_turn(self, while_waiting)

    def step(self, progress: float, while_waiting: Callable[[], None]) -> None:
        """Record the progress after a step, and pause for a request of a lower rank.

        Raises TimeUp.
        """
        self.progress = progress
        self.check()
        if self._gate.pause_for_others(self):
            self._gate.wait_for_turn(self, while_waiting)

    def check(self) -> None:
        """Raise TimeUp where the request's time is over."""
        if time.monotonic() - self.arrived > self.time_limit:
            raise TimeUp(f"the request was not done within its {self.time_limit:g} s")


class Gate:
    """The queue of one process; threads share it."""

    def __init__(
        self, waiting: int, on_change: Callable[[int, int], None], devices: int = 1
    ) -> None:
        """Let one request work on each of the devices, and `waiting` more wait.

        `on_change` is called with the number of requests that work and the number that wait.
        """
        self._waiting, self._on_change, self._devices = waiting, on_change, devices
        self._changed = threading.Condition()
        self._tickets: list[Ticket] = []
        self._working: list[Ticket] = []

    @contextmanager
    def ticket(self, time_limit: float = math.inf) -> Iterator[Ticket]:
        """Put a request with so many seconds into the queue; raises Overloaded."""
        with self._changed:
            self.check_capacity()
            self._tickets.append(ticket := Ticket(self, time_limit))
            self._notify()
        try:
            yield ticket
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                if ticket in self._working:
                    self._working.remove(ticket)
                self._notify()

    def check_capacity(self) -> None:
        """Raise Overloaded where the queue is full."""
        with self._changed:
            if len(self._tickets) >= self._waiting + self._devices:
                soonest = min((ticket.remaining for ticket in self._working), default=0.0)
                raise _overloaded(
                    f"{len(self._tickets)} requests are here, which is the limit",
                    soonest or _RETRY,
                )

    def expected_wait(self, expected: float) -> float:
        """Return the seconds until a request that comes now and takes `expected` has its turn."""
        with self._changed:
            return self._wait_of(time.monotonic() + expected)

    def _wait_of(self, rank: float) -> float:
        free = [0.0] * self._devices  # seconds until each device has nothing of a lower rank
        for other in sorted(self._tickets, key=lambda ticket: ticket.rank):
            if other.rank < rank:
                heapq.heapreplace(free, free[0] + other.remaining)
        return free[0]

    def check_time_limit(self, ticket: Ticket) -> None:
        """Raise Overloaded or InvalidRequest where a ticket has too little time, see `expect`."""
        with self._changed:
            wait = self._wait_of(ticket.rank)
            end = time.monotonic() + wait + ticket.minimum
            late = end - ticket.arrived - ticket.time_limit
            if ticket.minimum and late > 0:
                reason = (
                    f"the request takes about {ticket.minimum:.1f} s, after {wait:.1f} s for"
                    f" others, and has {ticket.time_limit:g} s"
                )
                if late > wait:  # not even an idle server has the time
                    raise InvalidRequest(f"timeout: {reason}; try again with more time")
                raise _overloaded(reason, late)

    def wait_for_turn(self, ticket: Ticket, while_waiting: Callable[[], None]) -> None:
        """Return when `ticket` works; see `Ticket.begin`."""
        with tracing.span(WAITING):
            self._wait_for_turn(ticket, while_waiting)

    def _wait_for_turn(self, ticket: Ticket, while_waiting: Callable[[], None]) -> None:
        start = time.monotonic()
        while True:
            with self._changed:
                ticket.ready = True
                if ticket in self._may_start():
                    self._working.append(ticket)
                    ticket.started = True
                    ticket.waited += time.monotonic() - start
                    self._notify()
                    return
                self._changed.wait(_POLL)
            ticket.check()
            while_waiting()

    def pause_for_others(self, ticket: Ticket) -> bool:
        """Pause the working `ticket` if others should work in its stead; return whether it is."""
        with self._changed:
            if ticket in self._should_work():
                return False
            self._working.remove(ticket)
            self._notify()
            return True

    def _notify(self) -> None:
        working = len(self._working)
        self._on_change(working, len(self._tickets) - working)
        self._changed.notify_all()

    def _should_work(self) -> list[Ticket]:
        """Return the tickets of the lowest ranks, one a device, among those started or startable.

        A ready ticket is startable while fewer than `_STARTED` a device are started.
        """
        startable = _STARTED * self._devices - sum(ticket.started for ticket in self._tickets)
        first: list[Ticket] = []
        for ticket in sorted(self._tickets, key=lambda ticket: ticket.rank):
            if ticket.started or (ticket.ready and startable > 0):
                first.append(ticket)
                startable -= not ticket.started
        return first[: self._devices]

    def _may_start(self) -> list[Ticket]:
        """Return the tickets that start to work on the idle devices."""
        waiting = [ticket for ticket in self._should_work() if ticket not in self._working]
        return waiting[: self._devices - len(self._working)]


def _overloaded(reason: str, seconds: float) -> Overloaded:
    retry_after = math.ceil(seconds)
    return Overloaded(f"overloaded: {reason}; try again in {retry_after} s", retry_after)
