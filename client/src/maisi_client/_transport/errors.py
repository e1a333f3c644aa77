"""Convert errors of the server, of Triton and of gRPC to errors of this package.

An error of the server begins with its kind; see docs/reference/errors.md. The other patterns match
sentences of Triton 2.51 and gRPC, because Triton reports errors within a stream only as text. (The
header `triton_grpc_error` would add a status. But with it, Triton 2.51 crashes if a backend sends
an error and then the end of its stream.)
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import NamedTuple

from tritonclient.utils import InferenceServerException

from .._arguments import NAMES
from .._errors import (
    InvalidRequest,
    MaisiError,
    ServerError,
    ServerUnavailable,
    Timeout,
    printable,
)
from .address import proxy_variable

LOOKUP_SECONDS = 30.0  # time limit of requests without computation

_FORM = re.compile(r"\[([a-z_]{1,30})(?: retry_after=([0-9]{1,9}))?\] (.+)")  # our server
_WRONG_INPUT = re.compile(rf".*\binput '?({'|'.join(NAMES)})\b'?")
_ASLEEP = re.compile(r".*(no available versions|not ready|not healthy)")
_LOST = re.compile(r".*(RST_STREAM|Stream removed|Socket closed|GOAWAY)")  # by a balancer, too
_UNREACHED = re.compile(r"connect to|DNS|errors resolving|HTTP proxy")
_OTHER_PROTOCOL = re.compile(  # the connection ended before the HTTP/2 handshake
    r"(connections to all backends failing|failed to connect to all addresses)"
    r".*(Socket closed|HTTP/2|http1|SETTINGS|reset by peer|SSL|Ssl|handshak)"
)
_SILENT = re.compile(r".*timed out before receiving SETTINGS")  # a server that hangs
_LATE = re.compile(r"Stream removed \(Deadline Exceeded\)", re.IGNORECASE)


class UnknownModel(InvalidRequest):
    """The server has no model of this name."""


class Reply(NamedTuple):
    """The parts of an error of our server; `retry_after` in seconds."""

    kind: str
    retry_after: float | None
    sentence: str


def read_reply(message: str) -> Reply | None:
    """Return the parts of an error of our server; None for one of Triton or gRPC."""
    if (parts := _FORM.fullmatch(message)) is None:
        return None
    return Reply(parts[1], None if parts[2] is None else float(parts[2]), parts[3])


def explain(error: InferenceServerException, url: str, started: bool = False) -> MaisiError:
    """Return the error of this package for an exception of tritonclient, with the same sentence."""
    message = " ".join(printable(error.message() or "").split()) or "no reason given"
    if (reply := read_reply(message)) is not None:
        return _of_reply(reply, url)
    match str(error.status()).removeprefix("StatusCode."):
        case "None" if _WRONG_INPUT.match(message):
            return InvalidRequest(message)
        case "None" if not started and _ASLEEP.match(message):
            return _unavailable(url, message)
        case "None" if "unknown model" in message:
            return UnknownModel(message)
        case "INVALID_ARGUMENT" | "NOT_FOUND" | "OUT_OF_RANGE":
            return InvalidRequest(message)
        case _ if "larger than max" in message:  # the message exceeds the connection's limit
            return ServerError(message)
        case _ if _LATE.search(message):
            return deadline_exceeded(url)
        case "UNAVAILABLE" if not started and _SILENT.match(message):
            return ServerUnavailable(
                f"{url} accepts connections, but does not answer{_by_proxy(url)}"
            )
        case "UNAVAILABLE" if not started and _OTHER_PROTOCOL.match(message):
            return ServerUnavailable(
                f"{url} does not answer with gRPC as expected; Triton's gRPC port is 8001 by"
                f" default, and both sides or neither must use TLS{_by_proxy(url)}"
            )
        case _ if _LOST.match(message):
            return connection_lost(url, message)
        case "UNAVAILABLE" if started:
            return connection_lost(url, message)
        case "UNAVAILABLE" if _UNREACHED.search(message):
            # gRPC nests reasons; the last one is the cause.
            reason = message.rsplit(": ", 1)[-1].rstrip("]")
            return ServerUnavailable(f"no server answers at {url}: {reason}{_by_proxy(url)}")
        case "UNAVAILABLE":
            return _unavailable(url, message)
        case "DEADLINE_EXCEEDED":
            return deadline_exceeded(url)
        case status:
            return ServerError(message, "internal" if status == "INTERNAL" else None)


def _of_reply(reply: Reply, url: str) -> MaisiError:
    match reply.kind:
        case "invalid_request":
            return InvalidRequest(reply.sentence)
        case "overloaded" | "out_of_memory" | "stopping":
            return _unavailable(url, reply.sentence, reply.kind, reply.retry_after)
        case "timeout":
            return Timeout(reply.sentence)
        case "engine_failed" | "internal" | "cancelled":
            return ServerError(reply.sentence, reply.kind)
        case _:
            return ServerError(reply.sentence)


def _unavailable(
    url: str, sentence: str, kind: str | None = None, retry_after: float | None = None
) -> ServerUnavailable:
    return ServerUnavailable(f"the server at {url} is not available: {sentence}", kind, retry_after)


def connection_lost(url: str, why: str = "it ended") -> ServerUnavailable:
    """Return the error for a connection that ended before the answer."""
    return ServerUnavailable(f"the connection to {url} was lost: {why}")


def idle(url: str, seconds: float) -> Timeout:
    """Return the error for a server that sent no progress for `seconds`."""
    return Timeout(f"the server at {url} sent nothing for {seconds:g} s")


def deadline_exceeded(url: str) -> Timeout:
    """Return the error for a request that exceeded its time limit."""
    return Timeout(f"the server at {url} did not finish the request in time")


def time_left(url: str, deadline: float) -> float:
    """Return the seconds until `deadline`; raises the error `deadline_exceeded` after it.

    Call this before each message and lookup, so that an endless stream also ends.
    """
    if (remaining := deadline - time.monotonic()) <= 0:
        raise deadline_exceeded(url)
    return remaining


def lookup_seconds(timeout: float) -> float:
    """Return the time limit in seconds of a lookup for a request that has `timeout` seconds."""
    return min(timeout, LOOKUP_SECONDS)


def unanswered(error: InferenceServerException, url: str, timeout: float) -> MaisiError:
    """Return the error of a lookup, which may have a shorter time limit than the request."""
    reason = explain(error, url)
    if isinstance(reason, Timeout) and lookup_seconds(timeout) < timeout:
        return ServerUnavailable(f"the server at {url} does not answer{_by_proxy(url)}")
    return reason


def unknown(variant: str | None, url: str, names: Iterable[str]) -> InvalidRequest:
    """Return the error for a variant that is not among the server's `names`."""
    names_text = ", ".join(names) or "none"
    return InvalidRequest(f"the variant is '{variant}'; {url} serves {names_text}")


def _by_proxy(url: str) -> str:
    variable = proxy_variable(url)
    return f"; the connection uses the proxy of {variable}" if variable else ""
