"""Connections, limits and tensors of gRPC with tritonclient."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import np_to_triton_dtype

from .._errors import InvalidRequest, printable
from .._request import Request, size_of
from .._validation import JSON_BYTES
from .address import is_loopback
from .tls import Tls

MESSAGE_BYTES = 2**31 - 1  # the limit of protobuf
LOOKUP_BYTES = 4 << 20  # a model's configuration has about 10 kB, all statistics about 100 kB
_LONGEST_SECONDS = 10**9  # 30 years; gRPC and Triton have 64 bits for nano- and microseconds
_OPTIONAL_INPUTS = frozenset(  # some variants do not have these inputs
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

_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    # Refuse compressed answers: a megabyte could unpack to gigabytes before its size is known.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # Distribute requests over all addresses of a name, such as the name of a headless Service.
    ("grpc.lb_policy_name", "round_robin"),
    # Pings detect a lost connection while a request waits. By default, a gRPC server closes the
    # connection of a client that pings more often than every 300 s.
    ("grpc.keepalive_time_ms", 305_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
]


def connect(
    url: str,
    tls: Tls | None,
    kind: Any = triton.InferenceServerClient,
    answer_bytes: int = LOOKUP_BYTES,
) -> Any:
    """Return a connection, which connects at the first call.

    Messages of more than `answer_bytes` are refused. The proxy in the environment is used, except
    for addresses of this machine.
    """
    options = {} if tls is None else tls.options()
    limit = ("grpc.max_receive_message_length", answer_bytes)
    proxy = ("grpc.enable_http_proxy", int(not is_loopback(url)))
    return kind(url, channel_args=[*_CHANNEL, limit, proxy], **options)


def check_seconds(**limits: float) -> None:
    """Raise `InvalidRequest` for a limit in seconds that is not finite or too large."""
    for name, seconds in limits.items():
        if not -_LONGEST_SECONDS <= seconds <= _LONGEST_SECONDS:
            raise InvalidRequest(
                f"{name} is {seconds}; at most {_LONGEST_SECONDS} seconds are expected"
            )


def answer_bytes(inputs: Mapping[str, NDArray[Any]]) -> int:
    """Return the most bytes of an answer: image, mask and reports for the size in the request."""
    size = size_of(inputs)
    if size is None or min(size, default=0) < 1:
        return MESSAGE_BYTES
    return min(3 * math.prod(size) + 2 * JSON_BYTES, MESSAGE_BYTES)  # int16, uint8


def microseconds(deadline: float) -> int:
    """Return the microseconds until `deadline`, as the timeout of a request to Triton."""
    return int(1e6 * max(deadline - time.monotonic(), 0.001))


def to_triton(inputs: Mapping[str, NDArray[Any]]) -> list[Any]:
    """Return the tensors as inputs of tritonclient."""
    return [_tensor(name, value) for name, value in inputs.items()]


def common_to_all(request: Request) -> bool:
    """Return whether every variant has all inputs of the request."""
    return _OPTIONAL_INPUTS.isdisjoint(request.inputs)


def check_supported(request: Request, config: Any) -> None:
    """Raise `InvalidRequest` for an input that is not in `config`, that of the variant's stream."""
    names = [printable(tensor.name) for tensor in config.input]
    for name in request.inputs:
        if name not in names:
            raise InvalidRequest(
                f"{name}: {request.variant} does not have this input; it has {', '.join(names)}"
            )


def _tensor(name: str, value: NDArray[Any]) -> Any:
    tensor = triton.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
    tensor.set_data_from_numpy(np.ascontiguousarray(value))
    return tensor
