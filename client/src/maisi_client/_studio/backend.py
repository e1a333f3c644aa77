"""The MAISI server of the page: its variants, and whether it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .. import aio
from .._colours import colour
from .._errors import MaisiError
from .._transport.tls import Tls
from .._variant import Variant, choose_variant
from .errors import error_json
from .events import Events

_QUICK_SECONDS = 60.0  # time limit of requests without computation
_PAUSE_SECONDS = 5.0  # between two lookups, while a browser listens
_PAGE_SECONDS = 1.0  # that the page waits for a lookup; a later answer is sent as an event


@dataclass(frozen=True)
class Target:
    """The server of the page: its address, TLS, and the time limit of a request in seconds."""

    url: str | None = None
    tls: Tls | None = None
    timeout: float = 3600.0


class Backend:
    """The connections to the server.

    `client` is for generation, and `quick` for requests that fail at once, without retries. Create
    and use an object in the same event loop.
    """

    def __init__(self, target: Target, events: Events) -> None:
        self.target, self._events = target, events
        self.client = aio.Client(target.url, tls=target.tls, timeout=target.timeout)
        self.quick = aio.Client(target.url, tls=target.tls, timeout=_QUICK_SECONDS, retries=0)
        self._variants: dict[str, Variant] = {}
        self._message: str | None = "the server has not answered yet"  # None while it answers
        self._looking: asyncio.Task[Any] | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
        await self.client.close()
        await self.quick.close()

    async def json(self) -> dict[str, Any]:
        """Return the server's state for the page: address, variants, and colours of label ids.

        If the server does not answer within `_PAGE_SECONDS`, return its last known state.
        """
        from .. import __version__

        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._try_look_up())
        await asyncio.wait({self._looking}, timeout=_PAGE_SECONDS)
        if self._looking.done():
            self._looking.result()  # raises any error that is not a `MaisiError`
        variants = {name: vars(variant) for name, variant in self._variants.items()}
        return {
            "url": self.client.url,
            **self._state(),
            "variants": variants,
            "colours": {str(id_): colour(id_) for id_ in range(256)},
            "version": __version__,
        }

    async def look_up(self) -> Mapping[str, Variant]:
        """Return the served variants; raises `MaisiError` if the server does not answer.

        Publish an event if the server starts or stops answering.
        """
        before = self._state(), self._variants
        try:
            self._variants = await self.quick.info()
            self._message = None
        except MaisiError as error:
            self._message = error_json(error.kind, str(error))["message"]
            raise
        finally:
            if before != (self._state(), self._variants):
                self._events.publish("server", self._state())
        return self._variants

    async def variant(self, name: str | None) -> Variant:
        """Return the variant called `name`, or the only one for None; raises `MaisiError`."""
        served = self._variants if name in self._variants else await self.look_up()
        return choose_variant(name, served)

    async def watch(self) -> None:
        """Look up the variants at intervals while a browser listens."""
        while True:
            await asyncio.sleep(_PAUSE_SECONDS)
            if self._events.listening:
                await self._try_look_up()

    async def _try_look_up(self) -> None:
        with suppress(MaisiError):
            await self.look_up()

    def _state(self) -> dict[str, Any]:
        return {"reachable": self._message is None, "message": self._message}
