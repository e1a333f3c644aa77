"""Who works next, and who need not wait: the queue before the networks of a variant.

As many requests work at a time as there are devices, most often one. Who waits is served in the
order of arrival + expected seconds, so a short request passes a long one that came a little before,
and a long one is passed only by what comes within its own length: neither starves. Between two
steps one at work gives way to a shorter one; two for each device are begun, and no more are.

What surely cannot be done in its time, or finds the queue full, is refused at once.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import InvalidRequest, Overloaded, TimeUp

_LOOK = 0.25  # seconds between two looks at whether the caller still waits
_BEGUN = 2  # requests that may be begun for each device, one of them standing still
_UNKNOWN = 5.0  # seconds until to try again, where nothing is known


class Ticket:
    """A request's ticket in the queue; times in seconds, of `time.monotonic()`.

    `expected`: what its work takes, by which it has its turn; `least`: what it surely takes, by
    which it or others are refused; 0 where nothing is known. `done`: how much of that is, 0..1;
    `waited`: how long it stood still. `ready`: it may work; `begun`: it has.
    """

    def __init__(self, gate: Gate, seconds: float) -> None:
        """Arrive; the request has so many seconds."""
        self.arrived = time.monotonic()
        self.seconds = seconds
        self.expected = self.least = self.done = self.waited = 0.0
        self.ready = self.begun = False
        self._gate = gate

    @property
    def rank(self) -> float:
        """Who has the lowest is next."""
        return self.arrived + self.expected

    @property
    def left(self) -> float:
        """Seconds of work that are surely left."""
        return self.least * (1 - self.done)

    def clock(self) -> float:
        """Tell the time, but for what was spent standing still."""
        return time.monotonic() - self.waited

    def expect(self, seconds: float | None, least: float | None) -> None:
        """Say what the work will take.

        Raises Overloaded where that is more time than is left, InvalidRequest where it is more than
        the request has at all.
        """
        self.expected, self.least = seconds or 0.0, least or 0.0
        self._gate.admit(self)

    def begin(self, still: Callable[[], None]) -> None:
        """Wait for the turn; `still` is called meanwhile and raises where nobody waits any more.

        Raises TimeUp.
        """
        self._gate.take(self, still)

    def step(self, done: float, still: Callable[[], None]) -> None:
        """Say how much is done, and give way to who comes first; raises TimeUp."""
        self.done = done
        self.check()
        if not self._gate.keeps(self):
            self._gate.take(self, still)

    def check(self) -> None:
        """Raise TimeUp where the request's time is over."""
        if time.monotonic() - self.arrived > self.seconds:
            raise TimeUp(f"the request was not done within its {self.seconds:g} s")


class Gate:
    """The queue of one process; threads share it."""

    def __init__(self, waiting: int, changed: Callable[[int, int], None], devices: int = 1) -> None:
        """Let one work on each of the devices, and so many wait beside them.

        `changed` hears how many work and wait.
        """
        self._waiting, self._heard, self._devices = waiting, changed, devices
        self._changed = threading.Condition()
        self._tickets: list[Ticket] = []
        self._working: list[Ticket] = []

    @contextmanager
    def ticket(self, seconds: float = math.inf) -> Iterator[Ticket]:
        """Hold a ticket for a request that has so many seconds; raises Overloaded."""
        with self._changed:
            self.look()
            self._tickets.append(ticket := Ticket(self, seconds))
            self._tell()
        try:
            yield ticket
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                if ticket in self._working:
                    self._working.remove(ticket)
                self._tell()

    def look(self) -> None:
        """Raise Overloaded where the queue is full."""
        with self._changed:
            if len(self._tickets) >= self._waiting + self._devices:
                soonest = min((ticket.left for ticket in self._working), default=0.0)
                raise _overloaded(
                    f"{len(self._tickets)} requests are here, as many as may be",
                    soonest or _UNKNOWN,
                )

    def ahead(self, expected: float) -> float:
        """Return the seconds until a request that comes now and takes `expected` has its turn."""
        with self._changed:
            return self._ahead(time.monotonic() + expected)

    def _ahead(self, rank: float) -> float:
        free = [0.0] * self._devices  # seconds until each device has nothing of a lower rank
        for other in sorted(self._tickets, key=lambda ticket: ticket.rank):
            if other.rank < rank:
                heapq.heapreplace(free, free[0] + other.left)
        return free[0]

    def admit(self, ticket: Ticket) -> None:
        """Raise Overloaded or InvalidRequest where a ticket has too little time, see `expect`."""
        with self._changed:
            wait = self._ahead(ticket.rank)
            late = time.monotonic() + wait + ticket.least - ticket.arrived - ticket.seconds
            if ticket.least and late > 0:
                why = (
                    f"the request takes about {ticket.least:.1f} s, after {wait:.1f} s for others,"
                    f" and has {ticket.seconds:g} s"
                )
                if late > wait:  # not even an idle server has the time
                    raise InvalidRequest(f"timeout: {why}; try again with more time")
                raise _overloaded(why, late)

    def take(self, ticket: Ticket, still: Callable[[], None]) -> None:
        """Wait until `ticket` is one that works."""
        since = time.monotonic()
        while True:
            with self._changed:
                ticket.ready = True
                if ticket in self._next():
                    self._working.append(ticket)
                    ticket.begun = True
                    ticket.waited += time.monotonic() - since
                    self._tell()
                    return
                self._changed.wait(_LOOK)
            ticket.check()
            still()

    def keeps(self, ticket: Ticket) -> bool:
        """Tell whether `ticket`, which works, goes on; if not, it no longer works."""
        with self._changed:
            if ticket in self._first():
                return True
            self._working.remove(ticket)
            self._tell()
            return False

    def _tell(self) -> None:
        working = len(self._working)
        self._heard(working, len(self._tickets) - working)
        self._changed.notify_all()

    def _first(self) -> list[Ticket]:
        """Return who should work: as many as there are devices, of those that may the first."""
        more = _BEGUN * self._devices - sum(ticket.begun for ticket in self._tickets)
        first: list[Ticket] = []
        for ticket in sorted(self._tickets, key=lambda ticket: ticket.rank):
            if ticket.begun or (ticket.ready and more > 0):
                first.append(ticket)
                more -= not ticket.begun
        return first[: self._devices]

    def _next(self) -> list[Ticket]:
        """Return who begins to work on the devices that nobody works on."""
        waiting = [ticket for ticket in self._first() if ticket not in self._working]
        return waiting[: self._devices - len(self._working)]


def _overloaded(why: str, seconds: float) -> Overloaded:
    after = math.ceil(seconds)
    return Overloaded(f"overloaded: {why}; try again in {after} s", after)
