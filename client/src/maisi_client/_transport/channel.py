"""gRPC through tritonclient: connections, tensors and errors."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from .._arguments import NAMES
from .._errors import (
    InvalidRequest,
    MaisiError,
    ServerError,
    ServerUnavailable,
    Timeout,
    printable,
)
from .._request import Request, size_of
from .._wire import JSON_BYTES
from .address import is_loopback, proxy_variable
from .tls import Tls

MESSAGE_BYTES = 2**31 - 1  # protobuf's own limit
LOOKUP_BYTES = 4 << 20  # a model's configuration has some 10 kB, statistics of all models 100
_LONGEST_SECONDS = 10**9  # 30 years; gRPC and Triton have 64 bits for nano- and microseconds
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
    # No answer is compressed: one of a megabyte could become gigabytes before its size is known.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # Over all addresses of a name, such as that of a headless Service.
    ("grpc.lb_policy_name", "round_robin"),
    # So that a host that was cut off is noticed while a request waits; no server allows less than
    # 300 s by itself, and ends the connection of who asks more often.
    ("grpc.keepalive_time_ms", 305_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
]
_LOST = re.compile(r".*(RST_STREAM|Stream removed|Socket closed|GOAWAY)")  # by a balancer, too
_UNREACHED = re.compile(r"connect to|DNS|errors resolving|HTTP proxy")
_OTHER_PROTOCOL = re.compile(  # the connection ended before it was one of HTTP/2
    r"(connections to all backends failing|failed to connect to all addresses)"
    r".*(Socket closed|HTTP/2|http1|SETTINGS|reset by peer|SSL|Ssl|handshak)"
)
_LATE = re.compile(r"Stream removed \(Deadline Exceeded\)", re.IGNORECASE)
_FAILED = re.compile(r"\w+: (the model \S+ failed|failed with \w+); the server's log says why")
_ELSEWHERE = re.compile(r"the server (is stopping|stopped)")


class UnknownModel(InvalidRequest):
    """The server has no model of this name."""


def connect(
    url: str,
    tls: Tls | None,
    kind: Any = triton.InferenceServerClient,
    answer_bytes: int = LOOKUP_BYTES,
) -> Any:
    """Open a connection, lazily: whether a server is there shows at the first call.

    No message of more than `answer_bytes` is taken from it. A proxy that the environment names is
    taken, but not to reach this machine.
    """
    options = {} if tls is None else tls.options()
    limit = ("grpc.max_receive_message_length", answer_bytes)
    proxy = ("grpc.enable_http_proxy", int(not is_loopback(url)))
    return kind(url, channel_args=[*_CHANNEL, limit, proxy], **options)


def check_seconds(**limits: float) -> None:
    """Raise `InvalidRequest` for a limit in seconds that no clock counts to."""
    for name, seconds in limits.items():
        if not -_LONGEST_SECONDS <= seconds <= _LONGEST_SECONDS:
            raise InvalidRequest(
                f"{name} is {seconds}; seconds, at most {_LONGEST_SECONDS}, are expected"
            )


def answer_bytes(inputs: Mapping[str, NDArray[Any]]) -> int:
    """Return what an answer can have at most: image, mask and report of the size asked for."""
    size = size_of(inputs)
    if size is None or min(size, default=0) < 1:
        return MESSAGE_BYTES
    return min(3 * math.prod(size) + 2 * JSON_BYTES, MESSAGE_BYTES)  # int16, uint8


def microseconds(deadline: float) -> int:
    """Return how long a request may take from now on, as the server is told."""
    return int(1e6 * max(deadline - time.monotonic(), 0.001))


def time_left(url: str, deadline: float) -> float:
    """Return the seconds until `deadline`, `late` raised once there are none.

    Asked before each message and lookup, it ends what a server would go on with for ever.
    """
    if (left := deadline - time.monotonic()) <= 0:
        raise late(url)
    return left


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
        return ServerUnavailable(f"the server at {url} does not answer{_by_proxy(url)}")
    return found


def _by_proxy(url: str) -> str:
    variable = proxy_variable(url)
    return f"; it is asked through the proxy that {variable} names" if variable else ""


def explain(error: InferenceServerException, url: str, started: bool = False) -> MaisiError:
    """Turn a tritonclient exception into one of ours, keeping the server's own sentence."""
    message = " ".join(printable(error.message() or "").split()) or "no reason given"
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
        case _ if "larger than max" in message:  # a message, by the limit of its connection
            return ServerError(message)
        case _ if _LATE.search(message):
            return late(url)
        case "UNAVAILABLE" if not started and _OTHER_PROTOCOL.match(message):
            return ServerUnavailable(
                f"what answers at {url} does not speak gRPC as expected; Triton's gRPC port is 8001"
                f" by default, and TLS has to be used by both sides or none{_by_proxy(url)}"
            )
        case _ if _LOST.match(message):
            return ServerUnavailable(f"the connection to {url} was lost: {message}")
        case "UNAVAILABLE" if started:
            return ServerUnavailable(f"the connection to {url} was lost: {message}")
        case "UNAVAILABLE" if _UNREACHED.search(message):
            # gRPC nests its reasons; the last one says what happened.
            reason = message.rsplit(": ", 1)[-1].rstrip("]")
            return ServerUnavailable(f"no server answers at {url}: {reason}{_by_proxy(url)}")
        case "UNAVAILABLE":
            return ServerUnavailable(f"the server at {url} is not available: {message}")
        case "DEADLINE_EXCEEDED":
            return late(url)
        case status:
            failed = status == "INTERNAL" or _FAILED.match(message) is not None
            return ServerError(message, passing=failed)


def to_triton(inputs: Mapping[str, NDArray[Any]]) -> list[Any]:
    """Return the tensors as tritonclient has them."""
    return [_tensor(name, value) for name, value in inputs.items()]


def everywhere(request: Request) -> bool:
    """Tell whether every variant has the inputs of the request."""
    return _NOT_EVERYWHERE.isdisjoint(request.inputs)


def check_taken(request: Request, config: Any) -> None:
    """Raise `InvalidRequest` where the variant's stream, by its `config`, has no such input."""
    taken = [printable(tensor.name) for tensor in config.input]
    for name in request.inputs:
        if name not in taken:
            raise InvalidRequest(
                f"{name}: {request.variant} takes none; what it takes is {', '.join(taken)}"
            )


def unknown(variant: str | None, url: str, served: Iterable[str]) -> InvalidRequest:
    """Return the error for a variant that is not among the `served`."""
    told = ", ".join(served) or "none"
    return InvalidRequest(f"the variant is '{variant}'; {url} serves {told}")


def _tensor(name: str, value: NDArray[Any]) -> Any:
    tensor = triton.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
    tensor.set_data_from_numpy(np.ascontiguousarray(value))
    return tensor
