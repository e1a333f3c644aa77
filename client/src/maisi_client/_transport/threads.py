"""The steps of a session, done in the thread that asks; the stream has one of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator
from contextlib import suppress
from typing import Any

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

_INBOX = 4  # messages of a stream that wait to be read; each may hold a volume
_ENDING_SECONDS = 5.0  # for a server to end a stream after its last message
_LOOK_SECONDS = 1.0  # between two looks at whether a stream that is silent has ended


def events(steps: Steps[None], tls: Tls | None) -> Generator[Any, None, None]:
    """Do the steps and yield what they give.

    Leaving the iterator early, by an exception too, cancels the request on the server.
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
                outcome = driver.do(step)
            except Exception as error:
                step = steps.throw(error)
            else:
                step = steps.send(outcome)
    except StopIteration:
        pass
    finally:
        try:
            driver.close()
        finally:
            steps.close()


class _Driver:
    def __init__(self, tls: Tls | None) -> None:
        self._tls = tls
        self._stream: _Stream | None = None

    def do(self, step: Step) -> Any:
        if not isinstance(step, WITHIN_STREAM):
            self.close()
        match step:
            case Lookup(server, method, arguments, seconds):
                return getattr(server.connection, method)(*arguments, client_timeout=seconds)
            case Begin():
                self._stream = _Stream(step, self._tls)
            case Receive(seconds):
                assert self._stream is not None
                return self._stream.receive(seconds)
            case Compute(function, arguments):
                return function(*arguments)
            case Sleep(seconds):
                time.sleep(seconds)

    def close(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.close()


class _Stream:
    """One request to a decoupled model."""

    def __init__(self, begin: Begin, tls: Tls | None) -> None:
        self._inbox: queue.Queue[tuple[Any, Any]] = queue.Queue(_INBOX)
        self._left_early = threading.Event()
        self._done = False
        self._client: Any = None
        self._region = Region(begin.server, tls, begin.model, begin.inputs)
        try:
            if self._region.worth_it:
                self._region.open()
            self._start(begin, tls)
        except BaseException:
            self.close()
            raise

    def receive(self, seconds: float) -> Message | None:
        """Return the next message within so many seconds, None if there is none.

        Raises EOFError if none comes any more: tritonclient does not tell of a stream that a server
        ends without its last message.
        """
        end = time.monotonic() + seconds
        while True:
            ended = not self._client._stream._handler.is_alive()
            wait = 0.0 if ended else min(end - time.monotonic(), _LOOK_SECONDS)
            try:
                result, error = self._inbox.get(timeout=max(wait, 0.0))
            except queue.Empty:
                if ended:
                    raise EOFError from None
                if time.monotonic() >= end:
                    return None
            else:
                received = message(result, error, self._region)
                self._done = received.final
                return received

    def close(self) -> None:
        """End the stream, which cancels what is not done, and forget its shared memory."""
        try:
            self._left_early.set()
            with suppress(queue.Empty):  # who waits to put a last one goes on
                while True:
                    self._inbox.get_nowait()
            if self._client is not None:
                _stop(self._client, cancel=not self._done)
                self._client.close()
        finally:
            self._region.close()

    def _start(self, begin: Begin, tls: Tls | None) -> None:
        # A connection of its own: tritonclient runs one stream a connection.
        self._client = channel.connect(
            begin.server.url, tls, answer_bytes=self._region.answer_bytes
        )
        self._client.start_stream(
            self._hear, stream_timeout=max(begin.deadline - time.monotonic(), 0.001)
        )
        tensors, outputs = self._region.tensors(), self._region.outputs()
        with suppress(InferenceServerException):  # of a stream lost already; the inbox says why
            self._client.async_stream_infer(
                begin.model,
                tensors,
                outputs=outputs,
                enable_empty_final_response=True,
                timeout=channel.microseconds(begin.deadline),
            )

    def _hear(self, result: Any, error: Any) -> None:
        if not self._left_early.is_set():
            self._inbox.put((result, error))  # while it is full, gRPC holds the server back


def _stop(client: Any, cancel: bool) -> None:
    """End the stream of tritonclient's `client`.

    One that is cancelled leaves a thread that waits for its next request for ever (tritonclient
    2.73), so it is told that none comes. A server that goes on after its last message is cancelled.
    """
    stream = client._stream
    if stream is not None and not cancel:
        stream._request_queue.put(None)
        stream._handler.join(_ENDING_SECONDS)
        cancel = stream._handler.is_alive()
    client.stop_stream(cancel_requests=cancel)
    if stream is not None:
        stream._request_queue.put(None)
