"""A relay before a server: cutting it looks like a server that has gone."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from tests.server.ports import free_ports


class Relay:
    """Passes the bytes of every connection to `target`, HOST:PORT, until `cut`.

    Its port stays reserved afterwards, for another relay there.
    """

    def __init__(self, target: str, port: int = 0) -> None:
        host, _, target_port = target.rpartition(":")
        self._target = host, int(target_port)
        self._listener = socket.create_server(("127.0.0.1", port or free_ports(1)[0]))
        self._open: list[socket.socket] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections, and accept no other."""
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                pair = self._listener.accept()[0], socket.create_connection(self._target)
                self._open += pair
                for one, other in (pair, pair[::-1]):
                    threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    @staticmethod
    def _copy(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := one.recv(1 << 16):
                other.sendall(content)
            other.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def relay(target: str, port: int = 0) -> Iterator[Relay]:
    """Yield a relay before the server `target`; it is cut at the end. `port` 0 is a free one."""
    one = Relay(target, port)
    try:
        yield one
    finally:
        one.cut()
