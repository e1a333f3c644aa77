"""The logic of both clients: lookups, streams, time limits and retries.

Each method is a generator of `operations`, and performs no I/O itself.
"""

from __future__ import annotations

import copy
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tritonclient.utils import InferenceServerException

from .. import _answer as answer
from .._errors import InvalidRequest, MaisiError, ServerError, ServerUnavailable, Timeout
from .._request import Request
from .._variant import Capacity, only_variant, parse_capacity, parse_variants, variant_names
from . import channel, errors
from .operations import Compute, Emit, Lookup, Message, OpenStream, Operations, Receive, Sleep
from .pool import Pool, PooledServer

_CAPACITY_SECONDS = 5.0  # time limit, also for the end of a run that still waits for a capacity

_log = logging.getLogger("maisi_client")


class Session:
    """Requests to the servers of `pool`, with the time limits in s and the retries of `Client`."""

    def __init__(
        self, pool: Pool[Any], url: str, timeout: float, idle_timeout: float, retries: int
    ) -> None:
        self.pool, self._url = pool, url
        self._timeout, self._idle_timeout, self._retries = timeout, idle_timeout, retries
        self._only_variant: str | None = None  # the servers' only variant, after a lookup
        self._preferred: PooledServer[Any] | None = None

    def preferring(self, server: PooledServer[Any]) -> Session:
        """Return a session with the same pool that uses other servers only while `server` rests."""
        session = copy.copy(self)
        session._preferred = server
        return session

    def capacity(self, server: PooledServer[Any]) -> Operations[None]:
        """Emit the `Capacity` of a server; raises `MaisiError` if it does not answer."""
        deadline, capacities = time.monotonic() + _CAPACITY_SECONDS, []
        for name in variant_names((yield from self._models(server, deadline))):
            config = yield from self._config(server, deadline, f"{name}.stream")
            capacities.append(parse_capacity(config))
        yield Emit(min(capacities, default=Capacity()))

    def variants(self) -> Operations[None]:
        """Emit the variants, by name, that are ready on one of the servers."""

        def attempt(server: PooledServer[Any], deadline: float) -> Operations[None]:
            configs = []
            for model in (yield from self._models(server, deadline)):
                configs.append((yield from self._config(server, deadline, model)))
            yield Emit(parse_variants(configs))

        return self._tries(attempt)

    def volume(self, request: Request) -> Operations[None]:
        """Emit each `Progress`, then the `Volume` once the stream has ended."""

        def consume(stream: _Stream) -> Operations[None]:
            volume = None
            while (result := (yield from stream.next(complete=volume is not None))) is not None:
                if (progress := answer.progress(result)) is not None:
                    yield Emit(progress)
                volume = (yield Compute(answer.volume, (result, request))) or volume
            if volume is None:
                raise ServerError(f"the server at {self._url} ended without a volume")
            yield Emit(volume)

        return self._ask(request, consume)

    def mask(self, request: Request) -> Operations[None]:
        """Emit each `Progress`, then the mask."""

        def consume(stream: _Stream) -> Operations[None]:
            while (result := (yield from stream.next())) is not None:
                if (progress := answer.progress(result)) is not None:
                    yield Emit(progress)
                report = answer.report(result)
                labels = report and (yield Compute(answer.mask, (result, report, request)))
                if labels is not None:
                    yield Emit(labels)
                    return
            raise ServerError(f"the server at {self._url} ended without a mask")

        return self._ask(request, consume)

    def outlook(self, request: Request) -> Operations[None]:
        """Emit the report of a check."""

        def consume(stream: _Stream) -> Operations[None]:
            while (result := (yield from stream.next())) is not None:
                if (report := answer.outlook(result, request)) is not None:
                    yield Emit(report)
                    return
            raise ServerError(f"the server at {self._url} ended without an answer")

        return self._ask(request, consume)

    def results(self, request: Request) -> Operations[None]:
        """Emit each message of the answer as an object of tritonclient."""

        def consume(stream: _Stream) -> Operations[None]:
            while (result := (yield from stream.next())) is not None:
                yield Emit(result)

        return self._ask(request, consume)

    def _ask(
        self, request: Request, consume: Callable[[_Stream], Operations[None]]
    ) -> Operations[None]:
        """Send a request and consume its stream.

        If a server stops, dies or fails before the end of the request, the request is sent again.
        It has a seed, so the new stream is equal to the first one.
        """

        def attempt(server: PooledServer[Any], deadline: float) -> Operations[None]:
            complete = yield from self._with_variant(server, request, deadline)
            yield from self._check_supported(server, complete, deadline)
            model, inputs = f"{complete.variant}.stream", complete.inputs
            yield OpenStream(server, model, inputs, deadline, request.traceparent)
            try:
                yield from consume(_Stream(server.url, deadline, self._idle_timeout))
            except errors.UnknownModel as error:
                self._only_variant = None
                names = variant_names((yield from self._models(server, deadline)))
                raise errors.unknown(complete.variant, server.url, names) from error

        return self._tries(attempt)

    def _tries(
        self, attempt: Callable[[PooledServer[Any], float], Operations[None]]
    ) -> Operations[None]:
        """Make an attempt, and repeat it while no server is available and there is time left."""
        deadline = time.monotonic() + self._timeout
        for retry in itertools.count():
            try:
                with self.pool.server(self._preferred) as server:
                    yield from attempt(server, deadline)
                return
            except MaisiError as error:
                if (pause := self.pool.pause(error, retry, self._retries, deadline)) is None:
                    raise
                _log.info("retry in %.1f s: %s", pause, error)
            yield Sleep(pause)

    def _models(self, server: PooledServer[Any], deadline: float) -> Operations[set[str]]:
        # The statistics list the ready models, and are allowed even if the index is restricted.
        statistics = yield from self._look_up(server, deadline, "get_inference_statistics")
        return {model.name for model in statistics.model_stats}

    def _config(self, server: PooledServer[Any], deadline: float, model: str) -> Operations[Any]:
        return (yield from self._look_up(server, deadline, "get_model_config", model)).config

    def _with_variant(
        self, server: PooledServer[Any], request: Request, deadline: float
    ) -> Operations[Request]:
        """Return the request with a variant; the default is the servers' only variant."""
        if request.variant is not None:
            return request
        if self._only_variant is None:
            names = variant_names((yield from self._models(server, deadline)))
            self._only_variant = only_variant(names, server.url)
        return replace(request, variant=self._only_variant)

    def _check_supported(
        self, server: PooledServer[Any], request: Request, deadline: float
    ) -> Operations[None]:
        """Raise `InvalidRequest` for an input that the variant does not have, before sending it."""
        if channel.common_to_all(request):
            return
        try:
            config = yield from self._config(server, deadline, f"{request.variant}.stream")
        except InvalidRequest:  # there is no such model; the error of the stream is clearer
            return
        channel.check_supported(request, config)

    def _look_up(
        self, server: PooledServer[Any], deadline: float, method: str, *arguments: str
    ) -> Operations[Any]:
        remaining = errors.time_left(server.url, deadline)
        try:
            return (yield Lookup(server, method, arguments, errors.lookup_seconds(remaining)))
        except InferenceServerException as error:
            raise errors.unanswered(error, server.url, remaining) from None


class _Stream:
    """The answer to one request.

    The first message may take until `deadline` (`time.monotonic()`), because the request may wait
    in a queue. Each further message may take `idle_timeout` seconds.
    """

    def __init__(self, url: str, deadline: float, idle_timeout: float) -> None:
        self._url, self._deadline, self._idle_timeout = url, deadline, idle_timeout
        self._started = self._done = False

    def next(self, complete: bool = False) -> Operations[Any]:
        """Return the next message of the answer; None at its end.

        Raises `Timeout` if a time limit is over, and `ServerUnavailable` if the stream ends without
        a final message. If the answer is `complete`, both are its end.
        """
        try:
            return (yield from self._next())
        except (Timeout, ServerUnavailable):
            if complete:
                return None
            raise

    def _next(self) -> Operations[Any]:
        while not self._done:
            remaining = errors.time_left(self._url, self._deadline)
            wait = min(remaining, self._idle_timeout) if self._started else remaining
            try:
                message: Message | None = yield Receive(wait)
            except EOFError:
                raise errors.connection_lost(self._url) from None
            if message is None and wait < remaining:
                raise errors.idle(self._url, self._idle_timeout)
            if message is None:
                raise errors.deadline_exceeded(self._url)
            if message.error is not None:
                raise errors.explain(message.error, self._url, self._started)
            self._started, self._done = True, message.final
            if message.result is not None:
                return message.result
        return None
