"""A connection to servers: what is asked once, what streams, and when to try again."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import replace
from typing import Any, TypeVar

from tritonclient.utils import InferenceServerException

from .._errors import InvalidRequest, MaisiError
from .._request import Request
from .._variant import Variant, in_models, offered, only
from . import channel, errors
from .pool import Pool, Server
from .shared import Region
from .stream import stream
from .tls import Tls

_T = TypeVar("_T")
_log = logging.getLogger("maisi_client")


class Connection:
    """The servers at `urls`, with the limits that `Client` explains."""

    def __init__(
        self, urls: str, tls: Tls | None, timeout: float, idle_timeout: float, retries: int
    ) -> None:
        channel.check_seconds(timeout=timeout, idle_timeout=idle_timeout)
        self.timeout, self.idle_timeout, self.retries = timeout, idle_timeout, retries
        self._tls = tls
        self._only_variant: str | None = None  # of the servers, once it was asked for
        self._pool = Pool(urls, lambda url: channel.connect(url, tls))

    def close(self) -> None:
        """Close it."""
        for server in self._pool.servers:
            server.connection.close()

    def variants(self) -> dict[str, Variant]:
        """Return every variant that is ready on one of the servers, by name."""
        found: dict[str, Variant]
        [found] = self._tries(lambda server, deadline: [self._info(server, deadline)])
        return found

    def results(self, request: Request) -> Generator[Any, None, None]:
        """Yield what the stream says.

        What a server leaves unfinished, as it stops, dies or fails, is sent again: then the stream
        says the same from its beginning, as the request names a seed.
        """

        def once(server: Server[Any], deadline: float) -> Generator[Any, None, None]:
            named = self._named(server, request, deadline)
            self._check_taken(server, named, deadline)
            model = f"{named.variant}.stream"
            with closing(Region(server, self._tls, model, named.inputs)) as region:
                if region.worth_it:
                    region.open()
                results = stream(
                    server.url,
                    self._tls,
                    region,
                    deadline=deadline,
                    idle_timeout=self.idle_timeout,
                )
                with closing(results):
                    try:
                        yield from results
                    except errors.UnknownModel as error:
                        self._only_variant = None
                        served = in_models(self._models(server, deadline))
                        raise errors.unknown(named.variant, server.url, served) from error

        return self._tries(once)

    def _tries(
        self, attempt: Callable[[Server[Any], float], Iterable[Any]]
    ) -> Generator[Any, None, None]:
        """Yield from an attempt, or another where no server was available, while time lasts."""
        deadline = time.monotonic() + self.timeout
        for tried in itertools.count():
            try:
                with self._pool.server() as server:
                    yield from attempt(server, deadline)
                return
            except MaisiError as error:
                if (pause := self._pool.pause(error, tried, self.retries, deadline)) is None:
                    raise
                _log.info("again in %.1f s: %s", pause, error)
                time.sleep(pause)

    def _info(self, server: Server[Any], deadline: float) -> dict[str, Variant]:
        names = self._models(server, deadline)
        return offered(self._config(server, deadline, name) for name in names)

    def _models(self, server: Server[Any], deadline: float) -> set[str]:
        # Statistics name what is ready, and stay open where the repository index is restricted.
        statistics = server.connection.get_inference_statistics
        return {model.name for model in self._call(server, deadline, statistics).model_stats}

    def _named(self, server: Server[Any], request: Request, deadline: float) -> Request:
        """Return the request with its variant, the only one of the servers if it names none."""
        if request.variant is not None:
            return request
        if self._only_variant is None:
            served = in_models(self._models(server, deadline))
            self._only_variant = only(served, server.url)
        return replace(request, variant=self._only_variant)

    def _check_taken(self, server: Server[Any], request: Request, deadline: float) -> None:
        """Refuse what this variant has no input for, before it travels."""
        if channel.everywhere(request):
            return
        try:
            config = self._config(server, deadline, f"{request.variant}.stream")
        except InvalidRequest:  # no such model: the stream's own error says it best
            return
        channel.check_taken(request, config)

    def _config(self, server: Server[Any], deadline: float, model: str) -> Any:
        return self._call(server, deadline, server.connection.get_model_config, model).config

    def _call(
        self, server: Server[Any], deadline: float, method: Callable[..., Any], *args: str
    ) -> Any:
        left = errors.time_left(server.url, deadline)
        try:
            return method(*args, client_timeout=errors.lookup_seconds(left))
        except InferenceServerException as error:
            raise errors.unanswered(error, server.url, left) from None
