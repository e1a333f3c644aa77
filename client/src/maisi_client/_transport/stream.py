"""One request of the client on one stream, its silences and its end."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator
from contextlib import suppress
from typing import Any

from tritonclient.utils import InferenceServerException

from . import channel, errors
from .shared import Region
from .tls import Tls

_INBOX = 4  # messages of a stream that wait to be read; each may hold a volume
_ENDING_SECONDS = 5.0  # for a server to end a stream after its last message
_LOOK_SECONDS = 1.0  # between two looks at whether a stream that is silent has ended


def stream(
    url: str,
    tls: Tls | None,
    region: Region,
    *,
    deadline: float,
    idle_timeout: float,
) -> Generator[Any, None, None]:
    """Send one request to a decoupled model and yield its results until the server is done.

    The first result may take until `deadline` (`time.monotonic()`), as the request may have to
    queue; each further one at most `idle_timeout` seconds. Leaving the iterator early, by an
    exception too, cancels the request on the server.
    """
    inbox: queue.Queue[tuple[Any, Any]] = queue.Queue(_INBOX)
    done = started = False
    left_early = threading.Event()

    def hear(result: Any, error: Any) -> None:
        if not left_early.is_set():
            inbox.put((result, error))  # while it is full, gRPC holds the server back

    # One of its own: tritonclient runs one stream a connection.
    client = channel.connect(url, tls, answer_bytes=region.answer_bytes)
    try:
        client.start_stream(
            hear,
            stream_timeout=max(deadline - time.monotonic(), 0.001),
        )
        tensors, outputs = region.tensors(), region.outputs()
        with suppress(InferenceServerException):  # of a stream lost already; the inbox says why
            client.async_stream_infer(
                region.model,
                tensors,
                outputs=outputs,
                enable_empty_final_response=True,
                timeout=channel.microseconds(deadline),
            )
        while not done:
            left = errors.time_left(url, deadline)
            wait = min(left, idle_timeout) if started else left
            try:
                result, error = _next(inbox, client, wait)
            except queue.Empty:
                if wait < left:
                    raise errors.silent(url, idle_timeout) from None
                raise errors.late(url) from None
            except EOFError:
                raise errors.lost(url) from None
            if error is not None:
                raise errors.explain(error, url, started)
            started = True
            response = result.get_response()
            done = response.parameters["triton_final_response"].bool_param
            if response.raw_output_contents:  # the last message may be no more than the flag
                yield region.read(result)
    finally:
        left_early.set()
        with suppress(queue.Empty):  # who waits to put a last one goes on
            while True:
                inbox.get_nowait()
        _stop(client, cancel=not done)
        client.close()


def _next(inbox: queue.Queue[tuple[Any, Any]], client: Any, seconds: float) -> tuple[Any, Any]:
    """Return the next message within so many seconds.

    Raises `queue.Empty` if there is none, and EOFError if none comes any more: tritonclient does
    not tell of a stream that a server ends without its last message.
    """
    end = time.monotonic() + seconds
    while True:
        ended = not client._stream._handler.is_alive()
        wait = 0.0 if ended else min(end - time.monotonic(), _LOOK_SECONDS)
        try:
            return inbox.get(timeout=max(wait, 0.0))
        except queue.Empty:
            if ended:
                raise EOFError from None
            if time.monotonic() >= end:
                raise


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
