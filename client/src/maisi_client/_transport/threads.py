"""The driver that performs the operations of a session in the caller's thread.

tritonclient starts a thread for each stream.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any

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

_INBOX = 4  # most unread messages of a stream; each may contain a volume
_ENDING_SECONDS = 5.0  # that a server has to end a stream after its last message
_POLL_SECONDS = 1.0  # between two checks whether to continue


def events(
    operations: Operations[None], tls: Tls | None, poll: Callable[[], None]
) -> Generator[Any, None, None]:
    """Perform the operations and yield the events of each `Emit`.

    If the caller leaves the iterator early, for example by an exception, the request is cancelled
    on the server. `poll` is called once a second while there is nothing to do; a `BaseException`
    that it raises has the same effect.
    """
    driver = _Driver(tls, poll)
    try:
        operation = next(operations)
        while True:
            if isinstance(operation, Emit):
                yield operation.event
                operation = operations.send(None)
                continue
            try:
                outcome = driver.do(operation)
            except Exception as error:
                operation = operations.throw(error)
            else:
                operation = operations.send(outcome)
    except StopIteration:
        pass
    finally:
        try:
            driver.close()
        finally:
            operations.close()


class _Driver:
    def __init__(self, tls: Tls | None, poll: Callable[[], None]) -> None:
        self._tls, self._poll = tls, poll
        self._stream: _Stream | None = None

    def do(self, operation: Operation) -> Any:
        if not isinstance(operation, WITHIN_STREAM):
            self.close()
        match operation:
            case Lookup(server, method, arguments, seconds):
                return getattr(server.connection, method)(*arguments, client_timeout=seconds)
            case OpenStream():
                self._stream = _Stream(operation, self._tls)
            case Receive(seconds):
                assert self._stream is not None
                return self._stream.receive(seconds, self._poll)
            case Compute(function, arguments):
                return function(*arguments)
            case Sleep(seconds):
                end = time.monotonic() + seconds
                while (rest := end - time.monotonic()) > 0:
                    self._poll()
                    time.sleep(min(rest, _POLL_SECONDS))

    def close(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.close()


class _Stream:
    """A request to a decoupled model."""

    def __init__(self, begin: OpenStream, tls: Tls | None) -> None:
        self._inbox: queue.Queue[tuple[Any, Any]] = queue.Queue(_INBOX)
        self._closed = threading.Event()
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

    def receive(self, seconds: float, poll: Callable[[], None]) -> Message | None:
        """Return the next message, or None after `seconds`.

        Raises EOFError if the stream has ended. tritonclient does not report a stream that ends
        without a final message, so this method checks it.
        """
        end = time.monotonic() + seconds
        while True:
            poll()
            ended = not self._client._stream._handler.is_alive()
            wait = 0.0 if ended else min(end - time.monotonic(), _POLL_SECONDS)
            try:
                result, error = self._inbox.get(timeout=max(wait, 0.0))
            except queue.Empty:
                if ended:
                    raise EOFError from None
                if time.monotonic() >= end:
                    return None
            else:
                reply = message(result, error, self._region)
                self._done = reply.final
                return reply

    def close(self) -> None:
        """End the stream, cancel an unfinished request, and release its shared memory."""
        try:
            self._closed.set()
            with suppress(queue.Empty):  # unblock a callback that waits for space
                while True:
                    self._inbox.get_nowait()
            if self._client is not None:
                _stop(self._client, cancel=not self._done)
                self._client.close()
        finally:
            self._region.close()

    def _start(self, begin: OpenStream, tls: Tls | None) -> None:
        # Open a new connection, because tritonclient supports one stream per connection.
        self._client = channel.connect(
            begin.server.url, tls, answer_bytes=self._region.answer_bytes
        )
        self._client.start_stream(
            self._on_message,
            stream_timeout=max(begin.deadline - time.monotonic(), 0.001),
            headers=begin.headers,
        )
        tensors, outputs = self._region.tensors(), self._region.outputs()
        with suppress(InferenceServerException):  # the stream is lost; the inbox has the reason
            self._client.async_stream_infer(
                begin.model,
                tensors,
                outputs=outputs,
                enable_empty_final_response=True,
                timeout=channel.microseconds(begin.deadline),
            )

    def _on_message(self, result: Any, error: Any) -> None:
        if not self._closed.is_set():
            self._inbox.put((result, error))  # blocks while full, so gRPC slows the server down


def _stop(client: Any, cancel: bool) -> None:
    """End the stream of tritonclient's `client`.

    With tritonclient 2.73, a cancelled stream leaves a thread that waits forever for the next
    request; None in its queue ends the thread. If a server continues after its final message, the
    stream is cancelled.
    """
    stream = client._stream
    if stream is not None and not cancel:
        stream._request_queue.put(None)
        stream._handler.join(_ENDING_SECONDS)
        cancel = stream._handler.is_alive()
    client.stop_stream(cancel_requests=cancel)
    if stream is not None:
        stream._request_queue.put(None)
