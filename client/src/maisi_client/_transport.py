"""gRPC through tritonclient: one stream, its silences and its errors."""

from __future__ import annotations

import queue
import re
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from ._arguments import NAMES
from ._errors import InvalidRequest, MaisiError, ServerError, ServerUnavailable, Timeout
from ._request import Request
from ._tls import Tls

if TYPE_CHECKING:
    from ._shared import Region

LOOKUP_SECONDS = 30.0  # for what a server answers without any work
_NOT_EVERYWHERE = frozenset(  # inputs of some variants
    {
        "mask",
        "vocabulary",
        "anatomy",
        "organs",
        "augment",
        "redraws",
        "mask_only",
        "top_region",
        "bottom_region",
    }
)

# Within a stream Triton reports errors as text alone: what begins with an input's name is about the
# request. (The header `triton_grpc_error` would add a status, but makes Triton 2.51 crash when a
# backend sends an error and the end of its stream one after the other.)
_INPUT = rf"'?({'|'.join(NAMES)})\b'?"
_REFUSED = re.compile(rf"{_INPUT}: |.*\binput {_INPUT}")
_OVERLOADED = re.compile(r"overloaded: .*; try again (?:in (\d+) s|with more time)$")
_ASLEEP = re.compile(r".*(no available versions|not ready|not healthy)")
_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Over all addresses of a name, such as that of a headless Service.
    ("grpc.lb_policy_name", "round_robin"),
    # So that a host that was cut off is noticed while a request waits; no server allows less than
    # 300 s by itself, and ends the connection of who asks more often.
    ("grpc.keepalive_time_ms", 305_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
]
_LOST = re.compile(r".*(RST_STREAM|Stream removed|Socket closed|GOAWAY)")  # by a balancer, too
_LATE = re.compile(r"Stream removed \(Deadline Exceeded\)", re.IGNORECASE)
_ELSEWHERE = re.compile(r"the server (is stopping|stopped)")


class UnknownModel(InvalidRequest):
    """The server has no model of this name."""


def connect(url: str, tls: Tls | None, kind: Any = triton.InferenceServerClient) -> Any:
    """Open a connection, lazily: whether a server is there shows at the first call."""
    options = {} if tls is None else tls.options()
    return kind(url, channel_args=_CHANNEL, **options)


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
    inbox: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    done = started = False
    client = connect(url, tls)  # one of its own: tritonclient runs one stream a connection
    try:
        client.start_stream(
            lambda result, error: inbox.put((result, error)),
            stream_timeout=max(deadline - time.monotonic(), 0.001),
        )
        tensors, outputs = region.tensors(), region.outputs()
        with suppress(InferenceServerException):  # of a stream lost already; the inbox says why
            client.async_stream_infer(
                region.model,
                tensors,
                outputs=outputs,
                enable_empty_final_response=True,
                timeout=microseconds(deadline),
            )
        while not done:
            left = deadline - time.monotonic()
            wait = min(left, idle_timeout) if started else left
            try:
                result, error = inbox.get(timeout=max(wait, 0))
            except queue.Empty:
                if wait < left:
                    raise silent(url, idle_timeout) from None
                raise late(url) from None
            if error is not None:
                raise explain(error, url, started)
            started = True
            response = result.get_response()
            done = response.parameters["triton_final_response"].bool_param
            if response.raw_output_contents:  # the last message may be no more than the flag
                yield region.read(result)
    finally:
        _end(client, cancel=not done)
        client.close()


def microseconds(deadline: float) -> int:
    """Return how long a request may take from now on, as the server is told."""
    return int(1e6 * max(deadline - time.monotonic(), 0.001))


def _end(client: Any, cancel: bool) -> None:
    """End a stream; of a cancelled one tritonclient would leave the thread that sends behind."""
    held = client._stream
    client.stop_stream(cancel_requests=cancel)
    if cancel and held is not None:
        with suppress(AttributeError):  # of another version
            held._request_queue.put(None)


def silent(url: str, seconds: float) -> Timeout:
    """Return the error for a server that stopped telling how far it is."""
    return Timeout(f"the server at {url} fell silent for {seconds:g} s")


def late(url: str) -> Timeout:
    """Return the error for a request that has used up its time."""
    return Timeout(f"the server at {url} did not finish the request in time")


def lookup_seconds(timeout: float) -> float:
    """Return how long a lookup may take for a request that has `timeout` seconds."""
    return min(timeout, LOOKUP_SECONDS)


def unanswered(error: InferenceServerException, url: str, timeout: float) -> MaisiError:
    """Return the error of a lookup: out of its time is not out of the request's `timeout`."""
    found = explain(error, url)
    if isinstance(found, Timeout) and lookup_seconds(timeout) < timeout:
        return ServerUnavailable(f"the server at {url} does not answer")
    return found


def explain(error: InferenceServerException, url: str, started: bool = False) -> MaisiError:
    """Turn a tritonclient exception into one of ours, keeping the server's own sentence."""
    message = " ".join((error.message() or "").split()) or "no reason given"
    if (overloaded := _OVERLOADED.match(message)) is not None:
        if overloaded[1] is None:  # not even an idle server has the time
            return InvalidRequest(f"timeout: {message}")
        return ServerUnavailable(
            f"the server at {url} is not available: {message}", float(overloaded[1])
        )
    match str(error.status()).removeprefix("StatusCode."):
        case "None" if _REFUSED.match(message):
            return InvalidRequest(message)
        case "None" if _ELSEWHERE.match(message) or (not started and _ASLEEP.match(message)):
            return ServerUnavailable(f"the server at {url} is not available: {message}")
        case "None" if "unknown model" in message:
            return UnknownModel(message)
        case "INVALID_ARGUMENT" | "NOT_FOUND" | "OUT_OF_RANGE":
            return InvalidRequest(message)
        case _ if _LATE.search(message):
            return late(url)
        case _ if _LOST.match(message):
            return ServerUnavailable(f"the connection to {url} was lost: {message}")
        case "UNAVAILABLE" if started:
            return ServerUnavailable(f"the connection to {url} was lost: {message}")
        case "UNAVAILABLE" if "connect to" in message or "DNS" in message:
            # gRPC nests its reasons; the last one says what happened.
            return ServerUnavailable(f"no server answers at {url}: {message.rsplit(': ', 1)[-1]}")
        case "UNAVAILABLE":
            return ServerUnavailable(f"the server at {url} is not available: {message}")
        case "DEADLINE_EXCEEDED":
            return late(url)
    return ServerError(message)


def to_triton(inputs: Mapping[str, NDArray[Any]]) -> list[Any]:
    """Return the tensors as tritonclient has them."""
    return [_tensor(name, value) for name, value in inputs.items()]


def everywhere(request: Request) -> bool:
    """Tell whether every variant has the inputs of the request."""
    return _NOT_EVERYWHERE.isdisjoint(request.inputs)


def check_taken(request: Request, config: Any) -> None:
    """Raise `InvalidRequest` where the variant's stream, by its `config`, has no such input."""
    taken = [tensor.name for tensor in config.input]
    for name in request.inputs:
        if name not in taken:
            raise InvalidRequest(
                f"{name}: {request.variant} takes none; what it takes is {', '.join(taken)}"
            )


def unknown(variant: str, url: str, served: Iterable[str]) -> InvalidRequest:
    """Return the error for a variant that is not among the `served`."""
    told = ", ".join(served) or "none"
    return InvalidRequest(f"the variant is '{variant}'; {url} serves {told}")


def _tensor(name: str, value: NDArray[Any]) -> Any:
    tensor = triton.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
    tensor.set_data_from_numpy(np.ascontiguousarray(value))
    return tensor
