"""Send HTTP/2 frames and gRPC messages, including those that no client library sends."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4
LONGEST = 60.0  # seconds for an answer
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_MOST = 16384  # largest number of bytes in a frame
_STATUS = re.compile(rb"grpc-status.(\d+)", re.DOTALL)


def connect(address: str) -> socket.socket:
    """Return a new TCP connection to HOST:PORT."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=LONGEST)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame; `stream` is odd for a stream of a client, and 0 for the connection."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


def header(name: bytes, value: bytes) -> bytes:
    """Return a header as a literal of HPACK without indexing."""
    return b"\0" + _text(name) + _text(value)


def _text(text: bytes) -> bytes:
    """Return a string of HPACK: its length with a prefix of 7 bits (RFC 7541, 5.1), its bytes."""
    length, rest = len(text), b""
    if length < 127:
        return bytes([length]) + text
    length -= 127
    while length >= 128:
        rest += bytes([length % 128 + 128])
        length //= 128
    return b"\x7f" + rest + bytes([length]) + text


def grpc_headers(encoding: bytes = b"identity") -> bytes:
    """Return the headers of a ModelInfer request whose messages have the compression `encoding`."""
    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/inference.GRPCInferenceService/ModelInfer",
        b":authority": b"127.0.0.1",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
        b"grpc-encoding": encoding,
    }
    return b"".join(header(name, value) for name, value in headers.items())


class Connection:
    """An HTTP/2 connection to a server."""

    def __init__(self, address: str):
        """Connect to HOST:PORT; this and all other methods may raise OSError."""
        self.socket = connect(address)
        self.socket.sendall(_PREFACE + frame(SETTINGS, 0, 0))
        self._file = self.socket.makefile("rb")
        self._initial, self._windows = 65535, {0: 65535}

    def frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield kind, flags, stream and payload of each frame until the connection is closed."""
        while len(head := self._file.read(9)) == 9:
            payload = self._file.read(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            if kind == WINDOW:
                window = self._windows.get(stream, self._initial)
                self._windows[stream] = window + int.from_bytes(payload, "big")
            elif kind == SETTINGS and not flags:
                for at in range(0, len(payload), 6):
                    if payload[at : at + 2] == b"\0\4":
                        self._initial = int.from_bytes(payload[at + 2 : at + 6], "big")
                self.socket.sendall(frame(SETTINGS, 1, 0))
            yield kind, flags, stream, payload

    def call(self, stream: int, message: bytes, encoding: bytes = b"identity") -> None:
        """Send a complete ModelInfer request; `encoding` is the compression of `message`."""
        self.socket.sendall(frame(HEADERS, END_HEADERS, stream, grpc_headers(encoding)))
        body = bytes([encoding != b"identity"]) + len(message).to_bytes(4, "big") + message
        frames = self.frames()
        while body:
            free = min(self._windows[0], self._windows.setdefault(stream, self._initial), _MOST)
            if free <= 0:
                if next(frames, None) is None:
                    raise ConnectionError("closed before the whole message was sent")
                continue
            part, body = body[:free], body[free:]
            self._windows[0] -= len(part)
            self._windows[stream] -= len(part)
            self.socket.sendall(frame(DATA, 0 if body else END_STREAM, stream, part))

    def answer(self, stream: int) -> str:
        """Wait for the end of a stream; return gRPC's status, HTTP/2's error, or "closed"."""
        status = "no status"
        for kind, flags, of, payload in self.frames():
            if of == stream and kind == HEADERS and (match := _STATUS.search(payload)):
                status = f"status {match[1].decode()}"
            if of == stream and kind in (HEADERS, DATA) and flags & END_STREAM:
                return status
            if of == stream and kind == RESET:
                return f"reset {int.from_bytes(payload, 'big')}"
            if kind == GOAWAY:
                return f"goaway {int.from_bytes(payload[4:8], 'big')}"
        return "closed"

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self.socket.close()
