"""The steps of a session, done in an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import grpc
from tritonclient.utils import InferenceServerException

from . import channel
from .shared import Region
from .steps import (
    WITHIN_STREAM,
    Begin,
    Compute,
    Give,
    Lookup,
    Message,
    Receive,
    Sleep,
    Step,
    Steps,
    message,
)
from .tls import Tls


async def events(steps: Steps[None], tls: Tls | None) -> AsyncGenerator[Any, None]:
    """Do the steps and yield what they give.

    Leaving the iterator early, by an exception or a cancel too, cancels the request on the server.
    """
    driver = _Driver(tls)
    try:
        step = next(steps)
        while True:
            if isinstance(step, Give):
                yield step.event
                step = steps.send(None)
                continue
            try:
                outcome = await driver.do(step)
            except Exception as error:
                step = steps.throw(error)
            else:
                step = steps.send(outcome)
    except StopIteration:
        pass
    finally:
        try:
            await driver.close()
        finally:
            steps.close()


class _Driver:
    def __init__(self, tls: Tls | None) -> None:
        self._tls = tls
        self._stream: _Stream | None = None

    async def do(self, step: Step) -> Any:
        if not isinstance(step, WITHIN_STREAM):
            await self.close()
        match step:
            case Lookup(server, method, arguments, seconds):
                return await getattr(server.connection, method)(*arguments, client_timeout=seconds)
            case Begin():
                self._stream = _Stream(step, self._tls)
                await self._stream.start(step)
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
    """One request to a decoupled model, on the connection of all."""

    def __init__(self, begin: Begin, tls: Tls | None) -> None:
        self._region = Region(begin.server, tls, begin.model, begin.inputs)
        self._shares = self._region.worth_it
        self._replies: Any = None

    async def start(self, begin: Begin) -> None:
        """Send the request."""
        if self._shares:
            await asyncio.to_thread(self._region.open)

        async def sent() -> AsyncGenerator[dict[str, Any], None]:
            inputs, outputs = self._region.tensors(), self._region.outputs()
            yield {
                "model_name": begin.model,
                "inputs": inputs,
                "outputs": outputs,
                "timeout": channel.microseconds(begin.deadline),
            }

        self._replies = begin.server.connection.stream_infer(
            sent(), stream_timeout=max(begin.deadline - time.monotonic(), 0.001)
        )

    async def receive(self, seconds: float) -> Message | None:
        """Return the next message within so many seconds, None if there is none, or EOFError."""
        # `wait_for` of Python before 3.12 loses a cancel that comes with an answer.
        reply: asyncio.Future[Any] = asyncio.ensure_future(anext(self._replies))
        try:
            done, _ = await asyncio.wait({reply}, timeout=seconds)
        finally:
            reply.cancel()
        if not done:
            return None
        try:
            result, error = reply.result()
        except StopAsyncIteration:
            raise EOFError from None
        except grpc.RpcError as lost:
            status = InferenceServerException(lost.details(), str(lost.code()))
            return Message(None, status, False)
        return message(result, error, self._region)

    async def close(self) -> None:
        """Cancel what is not done, and forget the shared memory."""
        if self._replies is not None:
            self._replies.cancel()
        if self._shares:  # in its thread to the end, even where nobody waits; after `open`, too
            await asyncio.shield(asyncio.to_thread(self._region.close))
