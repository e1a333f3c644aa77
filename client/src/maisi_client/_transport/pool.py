"""The servers of a client, and which of them gets the next request."""

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

_REST_SECONDS = 0.5  # after the first failure of a server; doubled after each further one
_LONGEST_REST_SECONDS = 30.0
_T = TypeVar("_T")


@dataclass
class PooledServer(Generic[_T]):
    """A server of the pool: its connection, our unfinished requests, and when to ask it again."""

    url: str
    connection: _T
    pending: int = 0
    failures: int = 0  # in a row
    refusals: int = 0  # of requests that were too many for it
    rests_until: float = 0.0  # time.monotonic()
    far_until: float = 0.0  # time.monotonic(): until then no shared memory is tried


class Pool(Generic[_T]):
    """The servers at `urls`, `host:port` with commas between; `connect` opens a connection."""

    def __init__(self, urls: str, connect: Callable[[str], _T]) -> None:
        self._lock = threading.Lock()
        self.servers: Sequence[PooledServer[_T]] = [
            PooledServer(url, connect(url)) for url in addresses(urls)
        ]

    @contextmanager
    def server(self, preferred: PooledServer[_T] | None = None) -> Iterator[PooledServer[_T]]:
        """Yield `preferred`, else the server with our fewest requests, of those that do not rest.

        Of several with as few, a random one.

        A server that is not available, fails or falls silent within the context rests: longer after
        each failure in a row, and at least as long as its error says. If all servers rest, the one
        whose rest ends first is taken.
        """
        with self._lock:
            now = time.monotonic()
            server = min(
                self.servers,
                key=lambda one: (
                    max(one.rests_until - now, 0.0),
                    one is not preferred,
                    one.pending,
                    random.random(),  # not the same one for the first request of every client
                ),
            )
            server.pending += 1
        try:
            yield server
        except MaisiError as error:
            if is_transient(error) or isinstance(error, Timeout):
                self._rest(server, error.retry_after or 0.0)
            raise
        else:
            server.failures = 0
            server.rests_until = 0.0
        finally:
            with self._lock:
                server.pending -= 1

    def pause(self, error: MaisiError, retry: int, retries: int, deadline: float) -> float | None:
        """Return the seconds until some server may be asked again, with a random margin.

        `retry` counts the retries so far. None if there is to be no further one: after `retries`
        and one more for each other server, so that a dead server costs none; if the pause would
        last beyond `deadline` (`time.monotonic()`); and after an `error` that every server would
        return.
        """
        if not is_transient(error):
            return None
        now = time.monotonic()
        rest = min(server.rests_until for server in self.servers) - now
        pause = max(rest, 0.0) * random.uniform(1.0, 1.5)  # apart from other clients
        if retry >= retries + len(self.servers) - 1 or now + pause > deadline:
            return None
        return pause

    def _rest(self, server: PooledServer[_T], least: float) -> None:
        with self._lock:
            now = time.monotonic()
            if server.rests_until <= now:  # once for all requests that one failure ends
                rest = min(_REST_SECONDS * 2**server.failures, _LONGEST_REST_SECONDS)
                rest = max(rest, least / 0.75)
                server.failures += 1
                server.refusals += least > 0
                server.rests_until = now + rest * random.uniform(0.75, 1.25)
