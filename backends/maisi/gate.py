"""The queue of a variant's networks, which selects the next request and refuses requests.

On each device, at most one request uses the networks at a time. The others wait, in the order of
arrival time + expected seconds of work. A short request therefore overtakes a long one that arrived
a little earlier. Only requests that arrive within the expected time of a long request overtake it,
so no request waits forever. Between two steps, a working request pauses for a shorter one.

Before and after it uses the networks, a request computes on the CPU, while other requests use the
networks: its mask is prepared, and its volume is finished and sent. To bound the memory, at most
two requests per device have tensors in the networks, one that works and one that is paused. At most
three requests per device are started, including these two.

A request is refused at once if the queue is full (model.py checks this before it starts a thread),
or if it cannot end within its time limit (stream.py checks this when the work is known).
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum

from . import tracing
from .errors import InvalidRequest, Overloaded, TimeUp

WAITING = "waiting"  # the stage of a request that waits for its turn
_POLL = 0.25  # seconds between two checks whether the caller still waits
_STARTED = 3  # most started requests per device
_ENTERED = 2  # most requests per device with tensors in the networks, one of them paused
_RETRY = 5.0  # seconds after which to try again, if there is no estimate


class State(Enum):
    """What a request does; WAITING, PREPARED and PAUSED ones wait for others."""

    ARRIVED = "is checked"
    WAITING = "waits for its start"
    PREPARING = "prepares its inputs"
    PREPARED = "waits for the networks"
    WORKING = "uses the networks"
    PAUSED = "waits between two steps"
    FINISHING = "finishes its volume"


_RUNNING = State.PREPARING, State.WORKING, State.FINISHING
_INSIDE = State.WORKING, State.PAUSED


class Ticket:
    """A request in the queue; times in seconds, of `time.monotonic()`.

    `expected` is the likely time of its work, which orders the queue. `minimum` is the least time
    of its work, because of which requests are refused. Both are 0 if they are unknown. `progress`
    is the fraction of its work that is done, 0..1. `waited` is the time that it waited or was
    paused.
    """

    def __init__(self, gate: Gate, time_limit: float) -> None:
        """Create a ticket that arrives now; the request has to end within `time_limit` seconds."""
        self.arrived = time.monotonic()
        self.time_limit = time_limit
        self.expected = self.minimum = self.progress = self.waited = 0.0
        self.state = State.ARRIVED
        self._gate = gate

    @property
    def rank(self) -> float:
        """The rank in the queue; the ticket with the lowest rank is next."""
        return self.arrived + self.expected

    @property
    def remaining(self) -> float:
        """The least seconds that the rest of its work takes."""
        return self.minimum * (1 - self.progress)

    def clock(self) -> float:
        """Return the time in seconds of a clock that stops while the request waits."""
        return time.monotonic() - self.waited

    def expect(self, expected: float | None, minimum: float | None) -> None:
        """Set the likely and the least seconds of the work; None if they are unknown.

        Raises Overloaded if the remaining time is too short for the work, and InvalidRequest if
        even the whole time limit is too short.
        """
        self.expected, self.minimum = expected or 0.0, minimum or 0.0
        self._gate.check_time_limit(self)

    def begin(self, while_waiting: Callable[[], None]) -> None:
        """Wait until the request may start.

        `while_waiting` is called every quarter of a second, and raises if the caller has gone.
        Raises TimeUp after the time limit.
        """
        self._gate.wait(self, State.WAITING, while_waiting)

    def enter(self, while_waiting: Callable[[], None]) -> None:
        """Wait for the networks, unless the request uses them already; raises as `begin` does."""
        if self.state is not State.WORKING:
            self._gate.wait(self, State.PREPARED, while_waiting)

    def step(self, progress: float, while_waiting: Callable[[], None]) -> None:
        """Record the progress after a step, and pause for a request of a lower rank.

        Raises TimeUp after the time limit.
        """
        self.progress = progress
        self.check()
        if self._gate.pause_for_others(self):
            self._gate.wait(self, State.PAUSED, while_waiting)

    def leave(self, progress: float) -> None:
        """Leave the networks to others; the volume is finished beside them.

        `progress` is below 1 where the request may enter again.
        """
        self.progress = progress
        self._gate.leave(self)

    def check(self) -> None:
        """Raise TimeUp if the request's time is over."""
        if time.monotonic() - self.arrived > self.time_limit:
            raise TimeUp(f"the request was not done within its {self.time_limit:g} s")


class Gate:
    """The queue of a process; the class is thread-safe."""

    def __init__(
        self, waiting: int, on_change: Callable[[int, int], None], devices: int = 1
    ) -> None:
        """Create a queue in which one request per device works and `waiting` more may wait.

        `on_change` is called with the numbers of working and of waiting requests.
        """
        self._waiting, self._on_change, self._devices = waiting, on_change, devices
        self._changed = threading.Condition()
        self._tickets: list[Ticket] = []

    @contextmanager
    def ticket(self, time_limit: float = math.inf) -> Iterator[Ticket]:
        """Add a request with a time limit in s to the queue; raises Overloaded if it is full."""
        with self._changed:
            self.check_capacity()
            self._tickets.append(ticket := Ticket(self, time_limit))
            self._notify()
        try:
            yield ticket
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                self._notify()

    def check_capacity(self) -> None:
        """Raise Overloaded if the queue is full."""
        with self._changed:
            if len(self._tickets) >= self._waiting + self._devices:
                working = self._in(State.WORKING)
                soonest = min((ticket.remaining for ticket in working), default=0.0)
                raise _overloaded(
                    f"{len(self._tickets)} requests run or wait, which is the limit",
                    soonest or _RETRY,
                )

    def expected_wait(self, expected: float) -> float:
        """Return the seconds that a new request with `expected` seconds of work would wait."""
        with self._changed:
            return self._wait_of(time.monotonic() + expected)

    def _wait_of(self, rank: float) -> float:
        free = [0.0] * self._devices  # seconds until each device has no request of a lower rank
        for other in sorted(self._tickets, key=lambda ticket: ticket.rank):
            if other.rank < rank:
                heapq.heapreplace(free, free[0] + other.remaining)
        return free[0]

    def check_time_limit(self, ticket: Ticket) -> None:
        """Raise Overloaded or InvalidRequest if a ticket has too little time; see `expect`."""
        with self._changed:
            wait = self._wait_of(ticket.rank)
            end = time.monotonic() + wait + ticket.minimum
            late = end - ticket.arrived - ticket.time_limit
            if ticket.minimum and late > 0:
                reason = (
                    f"the request takes about {ticket.minimum:.1f} s and waits {wait:.1f} s for"
                    f" others, but its limit is {ticket.time_limit:g} s"
                )
                if late > wait:  # the time is too short even for an idle server
                    raise InvalidRequest(f"timeout: {reason}; try again with more time")
                raise _overloaded(reason, late)

    def wait(self, ticket: Ticket, state: State, while_waiting: Callable[[], None]) -> None:
        """Wait in `state` for the next state: PREPARING after WAITING, else WORKING.

        See `Ticket.begin`, `enter` and `step`.
        """
        with tracing.span(WAITING):
            self._wait(ticket, state, while_waiting)

    def _wait(self, ticket: Ticket, state: State, while_waiting: Callable[[], None]) -> None:
        start = time.monotonic()
        with self._changed:
            ticket.state = state
            self._notify()
        while True:
            with self._changed:
                if state is State.WAITING and ticket in self._may_start():
                    ticket.state = State.PREPARING
                elif state is not State.WAITING and ticket in self._may_work():
                    ticket.state = State.WORKING
                if ticket.state is not state:
                    ticket.waited += time.monotonic() - start
                    self._notify()
                    ticket.check()
                    return
                self._changed.wait(_POLL)
            ticket.check()
            while_waiting()

    def pause_for_others(self, ticket: Ticket) -> bool:
        """Pause the working `ticket` if others should work first; return whether it is paused."""
        with self._changed:
            if ticket in self._should_work():
                return False
            ticket.state = State.PAUSED
            self._notify()
            return True

    def leave(self, ticket: Ticket) -> None:
        """Release the networks of `ticket`; see `Ticket.leave`."""
        with self._changed:
            ticket.state = State.FINISHING
            self._notify()

    def _notify(self) -> None:
        running = len(self._in(*_RUNNING))
        self._on_change(running, len(self._tickets) - running)
        self._changed.notify_all()

    def _in(self, *states: State) -> list[Ticket]:
        """Return the tickets in these states, in the order of their ranks."""
        tickets = [ticket for ticket in self._tickets if ticket.state in states]
        return sorted(tickets, key=lambda ticket: ticket.rank)

    def _may_start(self) -> list[Ticket]:
        """Return the tickets that may start."""
        started = len(self._tickets) - len(self._in(State.ARRIVED, State.WAITING))
        return self._in(State.WAITING)[: max(0, _STARTED * self._devices - started)]

    def _should_work(self) -> list[Ticket]:
        """Return one ticket per device, by rank, that uses the networks or may use them.

        A prepared ticket may use the networks while fewer than `_ENTERED` per device use them.
        """
        free = _ENTERED * self._devices - len(self._in(*_INSIDE))
        first: list[Ticket] = []
        for ticket in self._in(*_INSIDE, State.PREPARED):
            if ticket.state is not State.PREPARED or free > 0:
                first.append(ticket)
                free -= ticket.state is State.PREPARED
        return first[: self._devices]

    def _may_work(self) -> list[Ticket]:
        """Return the tickets that start to work on the idle devices."""
        waiting = [ticket for ticket in self._should_work() if ticket.state is not State.WORKING]
        return waiting[: self._devices - len(self._in(State.WORKING))]


def _overloaded(reason: str, seconds: float) -> Overloaded:
    retry_after = math.ceil(seconds)
    return Overloaded(f"overloaded: {reason}; try again in {retry_after} s", retry_after)
