"""Who works next, and who need not wait: the queue before the networks of a variant.

One request works at a time. Who waits is served in the order of arrival + expected seconds, so a
short request passes a long one that came a little before, and a long one is passed only by what
comes within its own length: neither starves. Between two steps the one at work gives way to a
shorter one; then two are begun, and no more are.

What surely cannot be done in its time, or finds the queue full, is refused at once.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import InvalidRequest, Overloaded, TimeUp

_LOOK = 0.25  # seconds between two looks at whether the caller still waits
_BEGUN = 2  # requests that may be begun, one of them standing still
_UNKNOWN = 5.0  # seconds until to try again, where nothing is known


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

    def __init__(self, waiting: int, changed: Callable[[int, int], None]) -> None:
        """Let so many wait beside the one that works; `changed` hears how many work and wait."""
        self._waiting, self._heard = waiting, changed
        self._changed = threading.Condition()
        self._places: list[Place] = []
        self._working: Place | None = None

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
                if self._working is place:
                    self._working = None
                self._tell()

    def look(self) -> None:
        """Raise Overloaded where the queue is full."""
        with self._changed:
            if len(self._places) > self._waiting:
                soonest = self._working.left if self._working else 0.0
                raise _overloaded(
                    f"{len(self._places)} requests are here, as many as may be",
                    soonest or _UNKNOWN,
                )

    def ahead(self, expected: float) -> float:
        """Return the seconds of work before a request that comes now and takes `expected`."""
        with self._changed:
            return self._ahead(time.monotonic() + expected)

    def _ahead(self, rank: float) -> float:
        return sum(other.left for other in self._places if other.rank < rank)

    def admit(self, place: Place) -> None:
        """Raise Overloaded or InvalidRequest where a place has too little time, see `expect`."""
        with self._changed:
            wait = self._ahead(place.rank)
            late = time.monotonic() + wait + place.least - place.arrived - place.seconds
            if place.least and late > 0:
                why = (
                    f"the request takes about {place.least:.1f} s, after {wait:.1f} s for others,"
                    f" and has {place.seconds:g} s"
                )
                if late > wait:  # not even an idle server has the time
                    raise InvalidRequest(f"timeout: {why}; try again with more time")
                raise _overloaded(why, late)

    def take(self, place: Place, still: Callable[[], None]) -> None:
        """Wait until `place` is the one that works."""
        since = time.monotonic()
        while True:
            with self._changed:
                place.ready = True
                if self._working is None and self._next() is place:
                    self._working, place.begun = place, True
                    place.waited += time.monotonic() - since
                    self._tell()
                    return
                self._changed.wait(_LOOK)
            place.check()
            still()

    def keeps(self, place: Place) -> bool:
        """Tell whether `place`, which works, goes on; if not, it no longer works."""
        with self._changed:
            if self._next() is place:
                return True
            self._working = None
            self._tell()
            return False

    def _tell(self) -> None:
        working = int(self._working is not None)
        self._heard(working, len(self._places) - working)
        self._changed.notify_all()

    def _next(self) -> Place:
        """Return who is first among those that may work."""
        begun = [place for place in self._places if place.begun]
        ready = [place for place in self._places if place.ready]
        return min(ready if len(begun) < _BEGUN else begun, key=lambda place: place.rank)


def _overloaded(why: str, seconds: float) -> Overloaded:
    after = math.ceil(seconds)
    return Overloaded(f"overloaded: {why}; try again in {after} s", after)
