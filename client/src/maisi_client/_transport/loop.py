"""The driver that performs the operations of a session in an asyncio event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import grpc
from tritonclient.utils import InferenceServerException

from . import channel
from .operations import (
    WITHIN_STREAM,
    Compute,
    Emit,
    Lookup,
    Message,
    OpenStream,
    Operation,
    Operations,
    Receive,
    Sleep,
    message,
)
from .shared import Region
from .tls import Tls


async def events(operations: Operations[None], tls: Tls | None) -> AsyncGenerator[Any, None]:
    """Perform the operations and yield the events of each `Emit`.

    If the caller leaves the iterator early, for example by an exception or a cancellation, the
    request is cancelled on the server.
    """
    driver = _Driver(tls)
    try:
        operation = next(operations)
        while True:
            if isinstance(operation, Emit):
                yield operation.event
                operation = operations.send(None)
                continue
            try:
                outcome = await driver.do(operation)
            except Exception as error:
                operation = operations.throw(error)
            else:
                operation = operations.send(outcome)
    except StopIteration:
        pass
    finally:
        try:
            await driver.close()
        finally:
            operations.close()


class _Driver:
    def __init__(self, tls: Tls | None) -> None:
        self._tls = tls
        self._stream: _Stream | None = None

    async def do(self, operation: Operation) -> Any:
        if not isinstance(operation, WITHIN_STREAM):
            await self.close()
        match operation:
            case Lookup(server, method, arguments, seconds):
                return await getattr(server.connection, method)(*arguments, client_timeout=seconds)
            case OpenStream():
                self._stream = _Stream(operation, self._tls)
                await self._stream.start(operation)
            case Receive(seconds):
                assert self._stream is not None
                return await self._stream.receive(seconds)
            case Compute(function, arguments):
                return await asyncio.to_thread(function, *arguments)
            case Sleep(seconds):
                await asyncio.sleep(seconds)

    async def close(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.close()


class _Stream:
    """A request to a decoupled model, on a connection that all requests share."""

    def __init__(self, begin: OpenStream, tls: Tls | None) -> None:
        self._region = Region(begin.server, tls, begin.model, begin.inputs)
        self._shares = self._region.worth_it
        self._replies: Any = None

    async def start(self, begin: OpenStream) -> None:
        """Send the request."""
        if self._shares:
            await asyncio.to_thread(self._region.open)

        async def requests() -> AsyncGenerator[dict[str, Any], None]:
            inputs, outputs = self._region.tensors(), self._region.outputs()
            yield {
                "model_name": begin.model,
                "inputs": inputs,
                "outputs": outputs,
                "timeout": channel.microseconds(begin.deadline),
            }

        self._replies = begin.server.connection.stream_infer(
            requests(),
            stream_timeout=max(begin.deadline - time.monotonic(), 0.001),
            headers=begin.headers,
        )

    async def receive(self, seconds: float) -> Message | None:
        """Return the next message, or None after `seconds`; raises EOFError at the stream's end."""
        # Before Python 3.12, `wait_for` loses a cancellation that arrives together with a reply.
        reply: asyncio.Future[Any] = asyncio.ensure_future(anext(self._replies))
        try:
            done, _ = await asyncio.wait({reply}, timeout=seconds)
        finally:
            reply.cancel()
        if not done:
            return None
        try:
            result, failure = reply.result()
        except StopAsyncIteration:
            raise EOFError from None
        except grpc.RpcError as error:
            status = InferenceServerException(error.details(), str(error.code()))
            return Message(None, status, False)
        return message(result, failure, self._region)

    async def close(self) -> None:
        """Cancel the request if it has not ended, and release its shared memory."""
        if self._replies is not None:
            self._replies.cancel()
        if self._shares:  # the thread completes the release even if this task is cancelled
            await asyncio.shield(asyncio.to_thread(self._region.close))
