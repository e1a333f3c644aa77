"""The status port: HTTP for Kubernetes and Prometheus, which no client can keep busy.

One thread serves all connections. A request that does not arrive and an answer that is not read are
cut off after seconds, and the oldest connection is closed when there are too many: so a newcomer is
always answered.
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
from server.status import Health

HEAD = 8 << 10  # bytes of a request's head
PATIENCE = 5.0  # seconds in which a request has to arrive, and again for its answer to be read
MOST = 4096  # open connections
BACKLOG = 1024  # connections that the kernel holds until they are accepted
_AT_ONCE = 16  # connections accepted before others are looked at
_SURPLUS = 64  # reads of what a client sent beyond its head
_REQUEST = re.compile(rb"([!-~]+) ([!-~]+) HTTP/1\.[01]\r\n")


def most_connections() -> int:
    """Return how many connections may be open: `MOST`, or half of the process's descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else min(MOST, soft // 2)


class StatusPort:
    """Answers GET and HEAD of /live, /ready and /metrics, one request a connection."""

    def __init__(self, health: Health, address: Address):
        """Listen at the address's status port until `stop`; raises OSError where it is taken."""
        self._health, self._most = health, most_connections()
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
        # Its backlog is also how many it accepts at a time, before the oldest can be closed.
        server = await asyncio.start_server(
            self._connected, sock=listener, limit=HEAD, backlog=_AT_ONCE
        )
        listener.listen(BACKLOG)
        await self._stopped.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # in which the transports close their sockets

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = None
        if len(self._open) > self._most:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
        late = self._loop.call_later(PATIENCE, writer.transport.abort)
        try:
            head = await _read_head(reader)
            late.cancel()
            if head:
                answer = await self._answer(head)
                late = self._loop.call_later(PATIENCE, writer.transport.abort)
                await _send(reader, writer, answer)
        except asyncio.CancelledError:  # by a stop; asyncio's streams would log it as an error
            pass
        finally:
            late.cancel()
            self._open.pop(writer, None)
            writer.transport.abort()

    async def _answer(self, head: bytes) -> bytes:
        """Return the whole answer to a request's head."""
        request = _REQUEST.match(head)
        if request is None or not head.endswith(b"\r\n\r\n"):
            return _message(400, f"expected a request of HTTP/1.1, of {HEAD} bytes at most\n")
        method, path = request[1].decode(), request[2].decode()
        if method not in ("GET", "HEAD"):
            return _message(405, "expected GET or HEAD\n", "Allow: GET, HEAD")
        if path == "/metrics":
            answer = _message(200, await self._shared_metrics())
        elif path in ("/live", "/ready"):
            problem = self._health.live() if path == "/live" else self._health.ready()
            answer = _message(200, "ok\n") if problem is None else _message(503, f"{problem}\n")
        else:
            answer = _message(404, "there are /live, /ready and /metrics\n")
        return answer if method == "GET" else answer[: answer.index(b"\r\n\r\n") + 4]

    async def _shared_metrics(self) -> str:
        """Compute the metrics in a thread, once for all who ask meanwhile."""
        if self._metrics is None or self._metrics.done():
            self._metrics = Future()
            self._metrics.set_running_or_notify_cancel()  # so that a stop does not cancel it
            # A daemon, unlike an executor's: the process does not wait for it at its end.
            threading.Thread(target=self._compute, args=[self._metrics], daemon=True).start()
        return await asyncio.wrap_future(self._metrics)

    def _compute(self, metrics: Future[str]) -> None:
        try:
            metrics.set_result(self._health.metrics())
        except Exception as error:  # raised where the result is awaited
            metrics.set_exception(error)


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    """Return a request's head, or the beginning of what is none; nothing from who has gone."""
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
    with suppress(OSError):  # who asked has gone, or was cut off
        writer.write(answer)
        writer.write_eof()
        # A socket closed with bytes unread resets the connection, which may destroy the answer.
        for _ in range(_SURPLUS):
            if not await reader.read(HEAD):
                break
        writer.close()
        await writer.wait_closed()
