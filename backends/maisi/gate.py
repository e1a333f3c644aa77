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

_LOOK = 0.25  # seconds between two looks at whether the caller still waits
_BEGUN = 2  # requests that may be begun for each device, one of them standing still
_UNKNOWN = 5.0  # seconds until to try again, where nothing is known


class Overloaded(Exception):
    """The queue is full, or time is short; the message is one sentence: when to try again."""


class TimeUp(Exception):
    """The request has used up its time; the message is one sentence for the caller."""


class Place:
    """A request's place in the queue; times in seconds, of `time.monotonic()`.

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
        """Say what the work will take; raises Overloaded where that is more time than there is."""
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
        self._places: list[Place] = []
        self._working: list[Place] = []

    @contextmanager
    def place(self, seconds: float = math.inf) -> Iterator[Place]:
        """Hold a place for a request that has so many seconds; raises Overloaded."""
        with self._changed:
            self.look()
            self._places.append(place := Place(self, seconds))
            self._tell()
        try:
            yield place
        finally:
            with self._changed:
                self._places.remove(place)
                if place in self._working:
                    self._working.remove(place)
                self._tell()

    def look(self) -> None:
        """Raise Overloaded where the queue is full."""
        with self._changed:
            if len(self._places) >= self._waiting + self._devices:
                soonest = min((place.left for place in self._working), default=0.0)
                raise _overloaded(
                    f"{len(self._places)} requests are here, as many as may be",
                    soonest or _UNKNOWN,
                )

    def ahead(self, expected: float) -> float:
        """Return the seconds until a request that comes now and takes `expected` has its turn."""
        with self._changed:
            return self._ahead(time.monotonic() + expected)

    def _ahead(self, rank: float) -> float:
        free = [0.0] * self._devices  # seconds until each device has nothing of a lower rank
        for other in sorted(self._places, key=lambda place: place.rank):
            if other.rank < rank:
                heapq.heapreplace(free, free[0] + other.left)
        return free[0]

    def admit(self, place: Place) -> None:
        """Raise Overloaded where what comes before leaves a place too little time."""
        with self._changed:
            wait = self._ahead(place.rank)
            late = time.monotonic() + wait + place.least - place.arrived - place.seconds
            if place.least and late > 0:
                raise _overloaded(
                    f"the request takes about {place.least:.1f} s, after {wait:.1f} s for others,"
                    f" and has {place.seconds:g} s",
                    late if late <= wait else None,
                )

    def take(self, place: Place, still: Callable[[], None]) -> None:
        """Wait until `place` is one that works."""
        since = time.monotonic()
        while True:
            with self._changed:
                place.ready = True
                if place in self._next():
                    self._working.append(place)
                    place.begun = True
                    place.waited += time.monotonic() - since
                    self._tell()
                    return
                self._changed.wait(_LOOK)
            place.check()
            still()

    def keeps(self, place: Place) -> bool:
        """Tell whether `place`, which works, goes on; if not, it no longer works."""
        with self._changed:
            if place in self._first():
                return True
            self._working.remove(place)
            self._tell()
            return False

    def _tell(self) -> None:
        working = len(self._working)
        self._heard(working, len(self._places) - working)
        self._changed.notify_all()

    def _first(self) -> list[Place]:
        """Return who should work: as many as there are devices, of those that may the first."""
        more = _BEGUN * self._devices - sum(place.begun for place in self._places)
        first: list[Place] = []
        for place in sorted(self._places, key=lambda place: place.rank):
            if place.begun or (place.ready and more > 0):
                first.append(place)
                more -= not place.begun
        return first[: self._devices]

    def _next(self) -> list[Place]:
        """Return who begins to work on the devices that nobody works on."""
        waiting = [place for place in self._first() if place not in self._working]
        return waiting[: self._devices - len(self._working)]


def _overloaded(why: str, seconds: float | None) -> Overloaded:
    again = "with more time" if seconds is None else f"in {math.ceil(seconds)} s"
    return Overloaded(f"overloaded: {why}; try again {again}")
