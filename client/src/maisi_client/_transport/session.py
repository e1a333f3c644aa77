"""What is asked once, what streams, how long, and when to try again: the logic of both clients.

Nothing here waits: each method is a generator of `steps`.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tritonclient.utils import InferenceServerException

from .. import _answer as answer
from .._errors import InvalidRequest, MaisiError, ServerError
from .._request import Request
from .._variant import in_models, offered, only
from . import channel, errors
from .pool import Pool, Server
from .steps import Begin, Compute, Give, Lookup, Message, Receive, Sleep, Steps

_log = logging.getLogger("maisi_client")


class Session:
    """The servers of `pool`, with the limits in seconds and the retries that `Client` explains."""

    def __init__(
        self, pool: Pool[Any], url: str, timeout: float, idle_timeout: float, retries: int
    ) -> None:
        self.pool, self._url = pool, url
        self._timeout, self._idle_timeout, self._retries = timeout, idle_timeout, retries
        self._only_variant: str | None = None  # of the servers, once it was asked for

    def variants(self) -> Steps[None]:
        """Give every variant that is ready on one of the servers, by name."""

        def attempt(server: Server[Any], deadline: float) -> Steps[None]:
            configs = []
            for model in (yield from self._models(server, deadline)):
                configs.append((yield from self._config(server, deadline, model)))
            yield Give(offered(configs))

        return self._tries(attempt)

    def volume(self, request: Request) -> Steps[None]:
        """Give each `Progress`, then the `Volume` once the stream has ended."""

        def consume(stream: _Stream) -> Steps[None]:
            volume = None
            while (result := (yield from stream.next(complete=volume is not None))) is not None:
                if (progress := answer.progress(result)) is not None:
                    yield Give(progress)
                volume = (yield Compute(answer.volume, (result, request))) or volume
            if volume is None:
                raise ServerError(f"the server at {self._url} ended without a volume")
            yield Give(volume)

        return self._ask(request, consume)

    def mask(self, request: Request) -> Steps[None]:
        """Give each `Progress`, then the mask alone."""

        def consume(stream: _Stream) -> Steps[None]:
            while (result := (yield from stream.next())) is not None:
                if (progress := answer.progress(result)) is not None:
                    yield Give(progress)
                report = answer.report(result)
                labels = report and (yield Compute(answer.mask, (result, report, request)))
                if labels is not None:
                    yield Give(labels)
                    return
            raise ServerError(f"the server at {self._url} ended without a mask")

        return self._ask(request, consume)

    def outlook(self, request: Request) -> Steps[None]:
        """Give the report of a check."""

        def consume(stream: _Stream) -> Steps[None]:
            while (result := (yield from stream.next())) is not None:
                if (report := answer.outlook(result, request)) is not None:
                    yield Give(report)
                    return
            raise ServerError(f"the server at {self._url} ended without an answer")

        return self._ask(request, consume)

    def results(self, request: Request) -> Steps[None]:
        """Give each part of the answer as tritonclient has it."""

        def consume(stream: _Stream) -> Steps[None]:
            while (result := (yield from stream.next())) is not None:
                yield Give(result)

        return self._ask(request, consume)

    def _ask(self, request: Request, consume: Callable[[_Stream], Steps[None]]) -> Steps[None]:
        """Send a request and consume its stream.

        What a server leaves unfinished, as it stops, dies or fails, is sent again: then the stream
        says the same from its beginning, as the request names a seed.
        """

        def attempt(server: Server[Any], deadline: float) -> Steps[None]:
            named = yield from self._named(server, request, deadline)
            yield from self._check_taken(server, named, deadline)
            yield Begin(server, f"{named.variant}.stream", named.inputs, deadline)
            try:
                yield from consume(_Stream(server.url, deadline, self._idle_timeout))
            except errors.UnknownModel as error:
                self._only_variant = None
                served = in_models((yield from self._models(server, deadline)))
                raise errors.unknown(named.variant, server.url, served) from error

        return self._tries(attempt)

    def _tries(self, attempt: Callable[[Server[Any], float], Steps[None]]) -> Steps[None]:
        """Make an attempt, or another where no server was available, while time lasts."""
        deadline = time.monotonic() + self._timeout
        for tried in itertools.count():
            try:
                with self.pool.server() as server:
                    yield from attempt(server, deadline)
                return
            except MaisiError as error:
                if (pause := self.pool.pause(error, tried, self._retries, deadline)) is None:
                    raise
                _log.info("again in %.1f s: %s", pause, error)
            yield Sleep(pause)

    def _models(self, server: Server[Any], deadline: float) -> Steps[set[str]]:
        # Statistics name what is ready, and stay open where the repository index is restricted.
        statistics = yield from self._look_up(server, deadline, "get_inference_statistics")
        return {model.name for model in statistics.model_stats}

    def _config(self, server: Server[Any], deadline: float, model: str) -> Steps[Any]:
        return (yield from self._look_up(server, deadline, "get_model_config", model)).config

    def _named(self, server: Server[Any], request: Request, deadline: float) -> Steps[Request]:
        """Return the request with its variant, the only one of the servers if it names none."""
        if request.variant is not None:
            return request
        if self._only_variant is None:
            served = in_models((yield from self._models(server, deadline)))
            self._only_variant = only(served, server.url)
        return replace(request, variant=self._only_variant)

    def _check_taken(self, server: Server[Any], request: Request, deadline: float) -> Steps[None]:
        """Refuse what this variant has no input for, before it travels."""
        if channel.everywhere(request):
            return
        try:
            config = yield from self._config(server, deadline, f"{request.variant}.stream")
        except InvalidRequest:  # no such model: the stream's own error says it best
            return
        channel.check_taken(request, config)

    def _look_up(
        self, server: Server[Any], deadline: float, method: str, *arguments: str
    ) -> Steps[Any]:
        left = errors.time_left(server.url, deadline)
        try:
            return (yield Lookup(server, method, arguments, errors.lookup_seconds(left)))
        except InferenceServerException as error:
            raise errors.unanswered(error, server.url, left) from None


class _Stream:
    """The answer to one request.

    The first message may take until `deadline` (`time.monotonic()`), as the request may have to
    queue; each further one at most `idle_timeout` seconds.
    """

    def __init__(self, url: str, deadline: float, idle_timeout: float) -> None:
        self._url, self._deadline, self._idle_timeout = url, deadline, idle_timeout
        self._started = self._done = False

    def next(self, complete: bool = False) -> Steps[Any]:
        """Return the next part of the answer, None at its end.

        An end that the server does not announce is one where the answer is `complete`; else it
        raises ServerUnavailable.
        """
        while not self._done:
            left = errors.time_left(self._url, self._deadline)
            wait = min(left, self._idle_timeout) if self._started else left
            try:
                message: Message | None = yield Receive(wait)
            except EOFError:
                if complete:
                    return None
                raise errors.lost(self._url) from None
            if message is None and wait < left:
                raise errors.silent(self._url, self._idle_timeout)
            if message is None:
                raise errors.late(self._url)
            if message.error is not None:
                raise errors.explain(message.error, self._url, self._started)
            self._started, self._done = True, message.final
            if message.result is not None:
                return message.result
        return None
