"""The client for asyncio: the same names as `maisi_client.Client`, and many requests at once.

```python
async with maisi_client.aio.Client("a:8001,b:8001") as client:
    async for request, volume in client.gather(({"mask": mask, "seed": n} for n in range(1000))):
        ...
```
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc
import nibabel as nib
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from . import _answer as answer
from ._arguments import Arguments, MaskArguments, Picture
from ._errors import InvalidRequest, MaisiError, ServerError
from ._request import Request, prepare
from ._signature import lists_keywords_of
from ._transport import channel, errors
from ._transport.address import DEFAULT_URL
from ._transport.pool import Pool, Server
from ._transport.shared import Region
from ._transport.tls import Tls
from ._variant import Variant, in_models, offered, only
from ._volume import Progress, Volume

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Client"]

_log = logging.getLogger("maisi_client")


class Client:
    """MAISI Triton servers, as `maisi_client.Client` explains them.

    It is made and used in one event loop. Cancelling a task cancels its request on the server.
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
        self.timeout, self.idle_timeout, self.retries = timeout, idle_timeout, retries
        self._tls = tls or Tls.of()
        self._only_variant: str | None = None  # of the servers, once it was asked for
        self._pool = Pool(
            self.url,
            lambda url: channel.connect(
                # One for all requests, so that it has to take the answer of any.
                url,
                self._tls,
                InferenceServerClient,
                channel.MESSAGE_BYTES,
            ),
        )

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
        """Make a volume and wait for it; see `maisi_client.Client.generate`."""
        async with aclosing(self.stream(mask, **arguments)) as events:
            async for event in events:
                if isinstance(event, Volume):
                    return event
                if on_progress is not None:
                    on_progress(event)
        raise AssertionError("a stream ends with a volume or raises")

    @lists_keywords_of(MaskArguments, Arguments)
    async def stream(
        self, mask: Picture | None = None, **arguments: Unpack[Arguments]
    ) -> AsyncGenerator[Progress | Volume, None]:
        """Yield `Progress`, then the `Volume`; see `maisi_client.Client.stream`.

        All errors are raised at an item.
        """
        request = await asyncio.to_thread(prepare, mask, arguments)
        volume = None
        async with aclosing(self._results(request)) as results:
            async for result in results:
                if (progress := answer.progress(result)) is not None:
                    yield progress
                volume = await asyncio.to_thread(answer.volume, result, request) or volume
        if volume is None:
            raise ServerError(f"the server at {self.url} ended without a volume")
        yield volume

    async def gather(
        self, requests: Iterable[Mapping[str, Any]], *, limit: int = 8
    ) -> AsyncGenerator[tuple[Mapping[str, Any], Volume | MaisiError], None]:
        """Yield each request with its volume, or its error, as they are done.

        Requests are mappings of `mask` and `Arguments`, drawn one by one: no more than `limit` are
        at work, or done and not yet taken, so that any number of them needs the memory of `limit`.
        Leaving early cancels what is at work.
        """

        async def one(request: Mapping[str, Any]) -> tuple[Mapping[str, Any], Volume | MaisiError]:
            try:
                return request, await self.generate(**request)
            except MaisiError as error:
                return request, error

        left, working = iter(requests), set[asyncio.Task[Any]]()
        try:
            while True:
                for request in itertools.islice(left, limit - len(working)):
                    working.add(asyncio.create_task(one(request)))
                if not working:
                    return
                done, _ = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    working.remove(task)
                    yield task.result()
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)

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
        async with aclosing(self._results(request)) as results:
            async for result in results:
                if on_progress is not None and (progress := answer.progress(result)) is not None:
                    on_progress(progress)
                if (report := answer.report(result)) is not None and (
                    made := await asyncio.to_thread(answer.mask, result, report, request)
                ) is not None:
                    return made
        raise ServerError(f"the server at {self.url} ended without a mask")

    @lists_keywords_of(MaskArguments, Arguments)
    async def check(
        self, mask: Picture | None = None, **arguments: Unpack[Arguments]
    ) -> dict[str, Any]:
        """Return what `generate` would do; see `maisi_client.Client.check`."""
        request = await asyncio.to_thread(prepare, mask, arguments, check=True)
        async with aclosing(self._results(request)) as results:
            async for result in results:
                if (report := answer.outlook(result, request)) is not None:
                    return report
        raise ServerError(f"the server at {self.url} ended without an answer")

    async def info(self) -> dict[str, Variant]:
        """Return every variant that is ready on one of the servers, by name."""

        async def once(
            server: Server[Any], deadline: float
        ) -> AsyncGenerator[dict[str, Variant], None]:
            yield await self._info(server, deadline)

        found: dict[str, Variant]
        [found] = [found async for found in self._tries(once)]
        return found

    async def _results(self, request: Request) -> AsyncGenerator[Any, None]:
        """Yield what the stream says; what a server leaves unfinished is sent again."""

        async def once(server: Server[Any], deadline: float) -> AsyncGenerator[Any, None]:
            named = await self._named(server, request, deadline)
            await self._check_taken(server, named, deadline)
            async with (
                self._region(server, named) as region,
                aclosing(self._stream(server, region, deadline)) as results,
            ):
                try:
                    async for result in results:
                        yield result
                except errors.UnknownModel as error:
                    self._only_variant = None
                    served = in_models(await self._models(server, deadline))
                    raise errors.unknown(named.variant, server.url, served) from error

        async with aclosing(self._tries(once)) as results:
            async for result in results:
                yield result

    async def _tries(
        self, attempt: Callable[[Server[Any], float], AsyncGenerator[Any, None]]
    ) -> AsyncGenerator[Any, None]:
        """Yield from an attempt, or another where no server was available, while time lasts."""
        deadline = time.monotonic() + self.timeout
        for tried in itertools.count():
            try:
                with self._pool.server() as server:
                    async with aclosing(attempt(server, deadline)) as results:
                        async for result in results:
                            yield result
                return
            except MaisiError as error:
                if (pause := self._pool.pause(error, tried, self.retries, deadline)) is None:
                    raise
                _log.info("again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)

    @asynccontextmanager
    async def _region(self, server: Server[Any], request: Request) -> AsyncGenerator[Region, None]:
        region = Region(server, self._tls, f"{request.variant}.stream", request.inputs)
        if not region.worth_it:
            yield region
            return
        try:
            await asyncio.to_thread(region.open)
            yield region
        finally:  # in its thread to the end, even where nobody waits; after `open`, too
            await asyncio.shield(asyncio.to_thread(region.close))

    async def _stream(
        self, server: Server[Any], region: Region, deadline: float
    ) -> AsyncGenerator[Any, None]:
        """Send one request and yield its results, as `_stream.stream` does."""

        async def sent() -> AsyncGenerator[dict[str, Any], None]:
            inputs, outputs = region.tensors(), region.outputs()
            yield {
                "model_name": region.model,
                "inputs": inputs,
                "outputs": outputs,
                "timeout": channel.microseconds(deadline),
            }

        started, last = False, None
        replies = server.connection.stream_infer(
            sent(), stream_timeout=max(deadline - time.monotonic(), 0.001)
        )
        try:
            while True:
                left = errors.time_left(server.url, deadline)
                wait = min(left, self.idle_timeout) if started else left
                # `wait_for` of Python before 3.12 loses a cancel that comes with an answer.
                reply: asyncio.Future[Any] = asyncio.ensure_future(anext(replies))
                try:
                    done, _ = await asyncio.wait({reply}, timeout=wait)
                finally:
                    reply.cancel()
                if not done:
                    if wait < left:
                        raise errors.silent(server.url, self.idle_timeout)
                    raise errors.late(server.url)
                try:
                    result, error = reply.result()
                except StopAsyncIteration:
                    break
                if error is not None:
                    raise errors.explain(error, server.url, started)
                started = True
                if not result.get_response().raw_output_contents:  # no more than a flag
                    continue
                last = result
                yield region.read(result)
            if last is None or answer.report(last) is None:  # the end of all that is asked
                raise errors.lost(server.url)
        except grpc.RpcError as error:  # from None: its text is the server's own
            raise errors.explain(_translated(error), server.url, started) from None
        finally:
            replies.cancel()

    async def _info(self, server: Server[Any], deadline: float) -> dict[str, Variant]:
        names = await self._models(server, deadline)
        return offered([await self._config(server, deadline, name) for name in names])

    async def _models(self, server: Server[Any], deadline: float) -> set[str]:
        statistics = server.connection.get_inference_statistics
        ready = await self._call(server, deadline, statistics)
        return {model.name for model in ready.model_stats}

    async def _named(self, server: Server[Any], request: Request, deadline: float) -> Request:
        if request.variant is not None:
            return request
        if self._only_variant is None:
            served = in_models(await self._models(server, deadline))
            self._only_variant = only(served, server.url)
        return replace(request, variant=self._only_variant)

    async def _check_taken(self, server: Server[Any], request: Request, deadline: float) -> None:
        if channel.everywhere(request):
            return
        try:
            config = await self._config(server, deadline, f"{request.variant}.stream")
        except InvalidRequest:  # no such model: the stream's own error says it best
            return
        channel.check_taken(request, config)

    async def _config(self, server: Server[Any], deadline: float, model: str) -> Any:
        method = server.connection.get_model_config
        return (await self._call(server, deadline, method, model)).config

    async def _call(self, server: Server[Any], deadline: float, method: Any, *args: str) -> Any:
        left = errors.time_left(server.url, deadline)
        try:
            return await method(*args, client_timeout=errors.lookup_seconds(left))
        except InferenceServerException as error:
            raise errors.unanswered(error, server.url, left) from None


def _translated(error: Any) -> InferenceServerException:
    return InferenceServerException(error.details(), str(error.code()))
