"""The client for asyncio: the methods of `maisi_client.Client`, and `gather` for many requests.

```python
async with maisi_client.aio.Client("a:8001,b:8001") as client:
    async for request, volume in client.gather(({"mask": mask, "seed": n} for n in range(1000))):
        ...
```
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any

import nibabel as nib
from tritonclient.grpc.aio import InferenceServerClient

from ._arguments import Arguments, MaskArguments, Picture
from ._errors import MaisiError
from ._limits import check_counts
from ._request import prepare
from ._signature import lists_keywords_of
from ._transport import channel, loop
from ._transport.address import DEFAULT_URL
from ._transport.operations import Operations
from ._transport.pool import Pool
from ._transport.session import Session
from ._transport.tls import Tls
from ._variant import Variant
from ._volume import Progress, Volume

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Client"]


class Client:
    """A client of MAISI Triton servers for asyncio; see `maisi_client.Client`.

    It is created and used in one event loop. Cancelling a task cancels its request on the server.
    Files are read, and pictures resampled, in threads beside the loop.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        tls: Tls | None = None,
        timeout: float = 3600.0,
        idle_timeout: float = 300.0,
        retries: int = 3,
    ) -> None:
        self.url = url or os.environ.get("MAISI_URL") or DEFAULT_URL
        channel.check_seconds(timeout=timeout, idle_timeout=idle_timeout)
        self._tls = tls or Tls.of()
        self._pool = Pool(
            self.url,
            lambda url: channel.connect(
                # One for all requests, so it must accept an answer of any size.
                url,
                self._tls,
                InferenceServerClient,
                channel.MESSAGE_BYTES,
            ),
        )
        self._session = Session(self._pool, self.url, timeout, idle_timeout, retries)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        for server in self._pool.servers:
            await server.connection.close()

    @lists_keywords_of(MaskArguments, Arguments)
    async def generate(
        self,
        mask: Picture | None = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
        **arguments: Unpack[Arguments],
    ) -> Volume:
        """Return the volume of a request; see `maisi_client.Client.generate`."""
        volume: Volume = await self._wait(self.stream(mask, **arguments), on_progress)
        return volume

    @lists_keywords_of(MaskArguments, Arguments)
    async def stream(
        self, mask: Picture | None = None, **arguments: Unpack[Arguments]
    ) -> AsyncGenerator[Progress | Volume, None]:
        """Yield `Progress`, then the `Volume`; see `maisi_client.Client.stream`.

        All errors, also those of wrong arguments, are raised by the iteration.
        """
        request = await asyncio.to_thread(prepare, mask, arguments)
        async with aclosing(self._events(self._session.volume(request))) as events:
            async for event in events:
                yield event

    async def gather(
        self, requests: Iterable[Mapping[str, Any]], *, limit: int = 8
    ) -> AsyncGenerator[tuple[Mapping[str, Any], Volume | MaisiError], None]:
        """Yield each request with its volume, or its error, in the order of completion.

        Requests are mappings of `mask` and `Arguments`, taken from the iterable one by one. At most
        `limit` of them are running, or finished and not yet yielded, which bounds the memory.
        Leaving the loop early cancels the running requests. The iteration raises `InvalidRequest`
        if `limit` is not a whole number of 1 or more.
        """
        check_counts(limit=limit)

        async def generate(
            request: Mapping[str, Any],
        ) -> tuple[Mapping[str, Any], Volume | MaisiError]:
            try:
                return request, await self.generate(**request)
            except MaisiError as error:
                return request, error

        waiting, running = iter(requests), set[asyncio.Task[Any]]()
        try:
            while True:
                for request in itertools.islice(waiting, limit - len(running)):
                    running.add(asyncio.create_task(generate(request)))
                if not running:
                    return
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    running.remove(task)
                    yield task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    @lists_keywords_of(MaskArguments)
    async def mask(
        self,
        mask: Picture | None = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
        **arguments: Unpack[MaskArguments],
    ) -> nib.Nifti1Image:
        """Return the mask alone; see `maisi_client.Client.mask`."""
        request = await asyncio.to_thread(prepare, mask, arguments, mask_only=True)
        return await self._wait(self._events(self._session.mask(request)), on_progress)

    @lists_keywords_of(MaskArguments, Arguments)
    async def check(
        self, mask: Picture | None = None, **arguments: Unpack[Arguments]
    ) -> dict[str, Any]:
        """Return what `generate` would do; see `maisi_client.Client.check`."""
        request = await asyncio.to_thread(prepare, mask, arguments, check=True)
        outlook: dict[str, Any] = await self._wait(self._events(self._session.outlook(request)))
        return outlook

    async def info(self) -> dict[str, Variant]:
        """Return every variant that is ready on one of the servers; raises `MaisiError`."""
        variants: dict[str, Variant] = await self._wait(self._events(self._session.variants()))
        return variants

    async def _wait(
        self,
        events: AsyncGenerator[Any, None],
        on_progress: Callable[[Progress], object] | None = None,
    ) -> Any:
        """Return the event that is not `Progress`; see `maisi_client.Client._wait`."""
        result = None
        async with aclosing(events):
            async for event in events:
                if not isinstance(event, Progress):
                    result = event
                elif on_progress is not None:
                    on_progress(event)
        assert result is not None, "events have a result, or raise"
        return result

    def _events(self, operations: Operations[None]) -> AsyncGenerator[Any, None]:
        return loop.events(operations, self._tls)
