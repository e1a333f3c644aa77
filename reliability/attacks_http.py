"""Attacks on Triton's HTTP port, and connections that stay at any port.

Each takes a siege and returns how often it was answered in which way.
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
from reliability.siege import Siege

_INFER = "/v2/models/mini/infer"
_ZEROS = bytes(1 << 20)


def post(address: str, body: bytes, headers: dict[str, str]) -> str:
    """Ask mini by HTTP; return the status of the answer, or that the connection was closed."""
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
    """Return `head` and so many MB of zeros, compressed a thousandfold, as gzip or deflate."""
    pack = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    parts = [pack.compress(head), *(pack.compress(_ZEROS) for _ in range(megabytes)), pack.flush()]
    return b"".join(parts)


def bomb(siege: Siege, encoding: str) -> Counter[str]:
    """Return a body that unpacks to `amount` MB."""
    body = packed(siege.amount, encoding)
    return Counter([post(siege.server.http, body, {"Content-Encoding": encoding})])


def nesting(siege: Siege) -> Counter[str]:
    """JSON of `amount` levels: lists and objects, closed and not."""
    deep = siege.amount
    bodies = (
        b"[" * deep,
        b"[" * deep + b"]" * deep,
        b'{"inputs":' * deep,
        b'{"inputs":' + b"[" * deep + b"]" * deep + b"}",
    )
    return Counter(post(siege.server.http, body, {}) for body in bodies)


def numbers(siege: Siege) -> Counter[str]:
    """Numbers of JSON that no type holds, of `amount` digits, wherever a number may stand."""
    digits = "1" * siege.amount
    outcomes = Counter[str]()
    for number in ("1e999999", "-1e999999", f"0.{digits}", digits, f"-{digits}", f"1e-{digits}"):
        for body in (
            f'{{"inputs": [{{"name": "size", "shape": [{number}], "datatype": "INT32"}}]}}',
            f'{{"inputs": [{{"name": "size", "shape": [3], "datatype": "INT32",'
            f' "data": [{number}, 32, 32]}}]}}',
            f'{{"parameters": {{"timeout": {number}, "sequence_id": {number}}}, "inputs": []}}',
        ):
            outcomes[post(siege.server.http, body.encode(), {})] += 1
    return outcomes


def binary_sizes(siege: Siege) -> Counter[str]:
    """Lengths of binary tensors that are not theirs, each `amount` times."""
    outcomes = Counter[str]()
    content = (32).to_bytes(4, "little") * 3
    for size in (-1, 0, 11, 13, 2**31, 2**32 + 12, 2**63 - 1, 2**63, 2**64 + 12, "12", None):
        tensor: dict[str, Any] = {"name": "size", "shape": [3], "datatype": "INT32"}
        head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": size}}]})
        for length in (len(head), len(head) + 1, 0, 2**40, -1):
            headers = {"Inference-Header-Content-Length": str(length)}
            for _ in range(siege.amount):
                outcomes[post(siege.server.http, head.encode() + content, headers)] += 1
    return outcomes


def endless_body(siege: Siege) -> Counter[str]:
    """Return a chunked body of `amount` MB whose end does not come."""
    head = f"POST {_INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%b\r\n" % (len(_ZEROS), _ZEROS)
    return _unfinished(siege, head.encode(), chunk)


def tiny_chunks(siege: Siege) -> Counter[str]:
    """Return a whole body in `amount` chunks of one byte."""
    head = f"POST {_INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(siege.server.http) as connection:
        try:
            connection.sendall(head.encode() + b"1\r\n \r\n" * siege.amount + b"0\r\n\r\n")
            answer = connection.makefile("rb").readline()
        except OSError:
            answer = b""
    return Counter([f"HTTP {int(answer.split()[1])}" if answer else "closed"])


def endless_head(siege: Siege) -> Counter[str]:
    """Return a head of `amount` MB whose end does not come."""
    lines = b"".join(b"x-%d: %b\r\n" % (number, b"y" * 1000) for number in range(1000))
    return _unfinished(siege, f"POST {_INFER} HTTP/1.1\r\nHost: x\r\n".encode(), lines)


def _unfinished(siege: Siege, head: bytes, part: bytes) -> Counter[str]:
    with connect(siege.server.http) as connection:
        try:
            connection.sendall(head)
            for _ in range(siege.amount):
                connection.sendall(part)
            siege.hold()
        except OSError:
            return Counter(["closed"])
        return Counter(["closed" if _closed(connection) else "kept waiting"])


def silent(siege: Siege, port: str, path: str) -> Counter[str]:
    """`amount` connections to one port that send half a line and stay; then one that asks."""
    address = getattr(siege.server, port)
    outcomes = Counter[str]()
    with ExitStack() as stack:
        connections = []
        for _ in range(siege.amount):
            try:
                connections.append(stack.enter_context(connect(address)))
                connections[-1].sendall(b"GET /" if path else b"PRI")
            except OSError:
                outcomes["refused"] += 1
        siege.hold()
        if path:
            outcomes[f"newcomer: {_ask(address, 'GET', path, b'', {})}"] += 1
        outcomes.update("closed" if _closed(one) else "stayed" for one in connections)
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


def flood(siege: Siege) -> Counter[str]:
    """`amount` requests for a volume at once."""
    inputs = [
        {"name": name, "shape": [len(data)], "datatype": "INT32", "data": data}
        for name, data in (("size", [32, 32, 32]), ("steps", [10]))
    ]
    body = json.dumps({"inputs": inputs, "outputs": [{"name": "report"}]}).encode()
    outcomes: list[str] = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(post(siege.server.http, body, {})))
        for _ in range(siege.amount)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Counter(outcomes)
