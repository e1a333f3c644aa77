"""The MAISI server behind the page: its variants, and whether it answers."""

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

_QUICK_SECONDS = 60.0  # for what needs no computation
_PAUSE_SECONDS = 5.0  # between two, while somebody listens
_PAGE_SECONDS = 1.0  # that the page waits for an answer; a later one is an event


@dataclass(frozen=True)
class Target:
    """The server that the page asks: address, TLS, and seconds for a request."""

    url: str | None = None
    tls: Tls | None = None
    timeout: float = 3600.0


class Backend:
    """The server, asked by `client`; `quick` is for what is to fail at once, without retries.

    It is created and used in one event loop.
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
        """Return what the page shows of the server: address, variants, colours of label ids.

        A server that does not answer within `_PAGE_SECONDS` is described as it was before.
        """
        from .. import __version__

        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._try_look_up())
        await asyncio.wait({self._looking}, timeout=_PAGE_SECONDS)
        if self._looking.done():
            self._looking.result()  # raises what is no `MaisiError`
        variants = {name: vars(variant) for name, variant in self._variants.items()}
        return {
            "url": self.client.url,
            **self._state(),
            "variants": variants,
            "colours": {str(id_): colour(id_) for id_ in range(256)},
            "version": __version__,
        }

    async def look_up(self) -> Mapping[str, Variant]:
        """Return the variants that are served; raises `MaisiError` where it does not answer.

        A change between answering and not is an event.
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
        """Return the variant of a request that may name none; raises `MaisiError`."""
        served = self._variants if name in self._variants else await self.look_up()
        return choose_variant(name, served)

    async def watch(self) -> None:
        """Look up again and again while somebody listens."""
        while True:
            await asyncio.sleep(_PAUSE_SECONDS)
            if self._events.listening:
                await self._try_look_up()

    async def _try_look_up(self) -> None:
        with suppress(MaisiError):
            await self.look_up()

    def _state(self) -> dict[str, Any]:
        return {"reachable": self._message is None, "message": self._message}
