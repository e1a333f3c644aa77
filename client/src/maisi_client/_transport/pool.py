"""The servers of a client, and the choice of the server for the next request."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from .._errors import MaisiError, Timeout, is_transient
from .address import addresses

_REST_SECONDS = 0.5  # rest after the first failure of a server; doubled after each further one
_LONGEST_REST_SECONDS = 30.0
_T = TypeVar("_T")


@dataclass
class PooledServer(Generic[_T]):
    """A server of the pool: its connection, and the state that decides about further requests."""

    url: str
    connection: _T
    pending: int = 0
    failures: int = 0  # consecutive failures
    failed_at: float = 0.0  # time.monotonic() of the last failure
    refusals: int = 0  # requests that the server refused because it was overloaded
    rests_until: float = 0.0  # time.monotonic()
    far_until: float = 0.0  # time.monotonic(); shared memory is not tried before


class Pool(Generic[_T]):
    """The servers at `urls`, `host:port` separated by commas; `connect` opens a connection."""

    def __init__(self, urls: str, connect: Callable[[str], _T]) -> None:
        self._lock = threading.Lock()
        self.servers: Sequence[PooledServer[_T]] = [
            PooledServer(url, connect(url)) for url in addresses(urls)
        ]

    @contextmanager
    def server(self, preferred: PooledServer[_T] | None = None) -> Iterator[PooledServer[_T]]:
        """Yield a server that does not rest: `preferred`, or else the one with our fewest requests.

        If several servers have the fewest requests, the choice is random. If all servers rest, the
        server whose rest ends first is chosen.

        A server that is not available, fails or stops answering within the context rests. The rest
        is longer after each consecutive failure, and at least as long as the error requires. A
        success ends the rest, unless its request began before the last failure.
        """
        with self._lock:
            now = time.monotonic()
            server = min(
                self.servers,
                key=lambda one: (
                    max(one.rests_until - now, 0.0),
                    one is not preferred,
                    one.pending,
                    random.random(),  # distributes the first requests of several clients
                ),
            )
            server.pending += 1
            began = time.monotonic()
        try:
            yield server
        except MaisiError as error:
            if is_transient(error) or isinstance(error, Timeout):
                self._rest(server, error.retry_after or 0.0)
            raise
        else:
            with self._lock:
                if began > server.failed_at:
                    server.failures = 0
                    server.rests_until = 0.0
        finally:
            with self._lock:
                server.pending -= 1

    def pause(self, error: MaisiError, retry: int, retries: int, deadline: float) -> float | None:
        """Return the seconds until the next retry, with a random margin; None for no further retry.

        `retry` is the number of retries so far. There is no further retry if `retries` are used up,
        plus one for each additional server, so that a dead server does not use up a retry; if the
        pause would exceed `deadline` (`time.monotonic()`); or if every server would return the same
        `error`.
        """
        if not is_transient(error):
            return None
        now = time.monotonic()
        rest = min(server.rests_until for server in self.servers) - now
        pause = max(rest, 0.0) * random.uniform(1.0, 1.5)  # not at the same time as other clients
        if retry >= retries + len(self.servers) - 1 or now + pause > deadline:
            return None
        return pause

    def _rest(self, server: PooledServer[_T], least: float) -> None:
        with self._lock:
            now = server.failed_at = time.monotonic()
            if server.rests_until <= now:  # count a failure once, even if it ends several requests
                rest = min(_REST_SECONDS * 2**server.failures, _LONGEST_REST_SECONDS)
                rest = max(rest, least / 0.75)
                server.failures += 1
                server.refusals += least > 0
                server.rests_until = now + rest * random.uniform(0.75, 1.25)
