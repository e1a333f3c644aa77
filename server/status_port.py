"""The status port: HTTP for Kubernetes and Prometheus, which no client can block.

One thread serves all connections. A connection is closed if its request does not arrive, or its
answer is not read, within some seconds. If there are too many connections, the oldest one is
closed. New connections are therefore always answered.
"""

from __future__ import annotations

import asyncio
import re
import resource
import socket
import threading
from concurrent.futures import Future
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus

from server.address import Address, family
from server.health import Health
from server.status_metrics import exposition

HEAD = 8 << 10  # bytes of a request's head
PATIENCE = 5.0  # seconds until a request must have arrived, and again until its answer is read
MAX_CONNECTIONS = 4096  # open at a time
BACKLOG = 1024  # connections that the kernel queues until they are accepted
_ACCEPTS = 16  # connections that are accepted before others are served
_DISCARDS = 64  # reads of data that a client sends after the head
_REQUEST = re.compile(rb"([!-~]+) ([!-~]+) HTTP/1\.[01]\r\n")


def max_connections() -> int:
    """Return the limit of open connections, which is at most half of the process's descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, soft // 2)


class StatusPort:
    """Answers GET and HEAD of /live, /ready and /metrics, one request per connection."""

    def __init__(self, health: Health, address: Address, tls: bool):
        """Listen at the address's status port until `stop`; raises OSError if it is in use.

        `tls` states whether gRPC uses TLS.
        """
        self._health, self._max = health, max_connections()
        self._tls = address if tls else None
        self._open: dict[asyncio.StreamWriter, None] = {}  # from the oldest to the newest
        self._metrics: Future[str] | None = None  # the latest
        self._loop, self._stopped = asyncio.new_event_loop(), asyncio.Event()
        listener = socket.create_server(
            (address.host, address.status),
            family=family(address.host),
            dualstack_ipv6=address.host == "::",  # as Triton's own
        )
        self._thread = threading.Thread(target=self._run, args=[listener], daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port and its connections."""
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def _run(self, listener: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(listener))
        self._loop.close()

    async def _serve(self, listener: socket.socket) -> None:
        # Before asyncio serves a connection, it accepts as many as its backlog.
        server = await asyncio.start_server(
            self._connected, sock=listener, limit=HEAD, backlog=_ACCEPTS
        )
        listener.listen(BACKLOG)
        await self._stopped.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # let the transports close their sockets

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = None
        if len(self._open) > self._max:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
        timer = self._loop.call_later(PATIENCE, writer.transport.abort)
        try:
            head = await _read_head(reader)
            timer.cancel()
            if head:
                answer = await self._answer(head)
                timer = self._loop.call_later(PATIENCE, writer.transport.abort)
                await _send(reader, writer, answer)
        except asyncio.CancelledError:  # from `stop`; asyncio's streams would log it as an error
            pass
        finally:
            timer.cancel()
            self._open.pop(writer, None)
            writer.transport.abort()

    async def _answer(self, head: bytes) -> bytes:
        """Return the bytes of the answer to a request's head."""
        request = _REQUEST.match(head)
        if request is None or not head.endswith(b"\r\n\r\n"):
            return _message(400, f"expected an HTTP/1.1 request of at most {HEAD} bytes\n")
        method, path = request[1].decode(), request[2].decode()
        if method not in ("GET", "HEAD"):
            return _message(405, "expected GET or HEAD\n", "Allow: GET, HEAD")
        if path == "/metrics":
            answer = _message(200, await self._shared_metrics())
        elif path in ("/live", "/ready"):
            problem = self._health.live() if path == "/live" else self._health.ready()
            answer = _message(200, "ok\n") if problem is None else _message(503, f"{problem}\n")
        else:
            answer = _message(404, "expected /live, /ready or /metrics\n")
        return answer if method == "GET" else answer[: answer.index(b"\r\n\r\n") + 4]

    async def _shared_metrics(self) -> str:
        """Return the metrics, computed in a thread, once for all requests that come meanwhile."""
        if self._metrics is None or self._metrics.done():
            self._metrics = Future()
            self._metrics.set_running_or_notify_cancel()  # so that a stop does not cancel it
            # Use a daemon thread: at its end, the process would wait for an executor's thread.
            threading.Thread(target=self._compute, args=[self._metrics], daemon=True).start()
        return await asyncio.wrap_future(self._metrics)

    def _compute(self, metrics: Future[str]) -> None:
        try:
            metrics.set_result(exposition(self._health, self._tls))
        except Exception as error:  # raised again where the result is awaited
            metrics.set_exception(error)


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    """Return the head of a request, or the start of other data; b"" if the client has gone."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError:
        return await reader.read(HEAD)
    except OSError:
        return b""


def _message(status: int, text: str, *headers: str) -> bytes:
    body = text.encode()
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Date: {formatdate(usegmt=True)}",
        "Content-Type: text/plain; version=0.0.4; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def _send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes) -> None:
    with suppress(OSError):  # the client has gone, or was too slow
        writer.write(answer)
        writer.write_eof()
        # Read all data: closing a socket with unread data resets it, and the answer may be lost.
        for _ in range(_DISCARDS):
            if not await reader.read(HEAD):
                break
        writer.close()
        await writer.wait_closed()
