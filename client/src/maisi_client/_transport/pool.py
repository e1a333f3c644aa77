"""Which of several servers is asked next."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from .._errors import MaisiError, Timeout, worth_another_try
from .address import addresses

_REST_SECONDS = 0.5  # of a server that could not be had; twice that the next time, and so on
_LONGEST_REST_SECONDS = 30.0
_T = TypeVar("_T")


@dataclass
class Server(Generic[_T]):
    """A server: its connection, requests of ours that it works on, and when to ask it again."""

    url: str
    connection: _T
    pending: int = 0
    failures: int = 0  # one after the other
    rests_until: float = 0.0  # time.monotonic()
    far_until: float = 0.0  # the same, for shared memory


class Pool(Generic[_T]):
    """Servers at `urls`, `host:port` with commas between; `connect` opens one, lazily."""

    def __init__(self, urls: str, connect: Callable[[str], _T]) -> None:
        self._lock = threading.Lock()
        self.servers: Sequence[Server[_T]] = [Server(url, connect(url)) for url in addresses(urls)]

    @contextmanager
    def server(self) -> Iterator[Server[_T]]:
        """Hold the server with the fewest requests of ours, among those that do not rest.

        A server that is not available, fails or falls silent meanwhile rests, ever longer until it
        works, and as long as it says itself.
        If all rest, it is the one that wakes first.
        """
        with self._lock:
            now = time.monotonic()
            server = min(
                self.servers, key=lambda one: (max(one.rests_until - now, 0.0), one.pending)
            )
            server.pending += 1
        try:
            yield server
        except MaisiError as error:
            if worth_another_try(error) or isinstance(error, Timeout):
                self._rest(server, error.retry_after or 0.0)
            raise
        else:
            server.failures = 0
            server.rests_until = 0.0
        finally:
            with self._lock:
                server.pending -= 1

    def pause(self, error: MaisiError, tried: int, retries: int, deadline: float) -> float | None:
        """Return the seconds until some server may be asked again, a little more by chance.

        None where a request that was tried again `tried` times is not to be any more: that is after
        `retries` times, and once for each other server, as what finds one dead tries the others;
        or if the pause would last beyond `deadline` (`time.monotonic()`). None, too, after an
        `error` that any server would answer with.
        """
        if not worth_another_try(error):
            return None
        now = time.monotonic()
        left = min(server.rests_until for server in self.servers) - now
        pause = max(left, 0.0) * random.uniform(1.0, 1.5)  # apart from other clients
        if tried >= retries + len(self.servers) - 1 or now + pause > deadline:
            return None
        return pause

    def _rest(self, server: Server[_T], least: float) -> None:
        with self._lock:
            now = time.monotonic()
            if server.rests_until <= now:  # not once for each request that it loses
                rest = min(_REST_SECONDS * 2**server.failures, _LONGEST_REST_SECONDS)
                rest = max(rest, least / 0.75)
                server.failures += 1
                server.rests_until = now + rest * random.uniform(0.75, 1.25)
