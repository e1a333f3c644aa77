"""Free ports of this computer."""

from __future__ import annotations

import socket

_reserved: list[socket.socket] = []  # bound until this process ends


def free_ports(count: int) -> list[int]:
    """Return numbers of free ports, all different, which no other program gets by chance.

    Sockets that do not listen keep them bound; a server with SO_REUSEADDR can still listen there.
    """
    sockets = [socket.socket() for _ in range(count)]
    for reservation in sockets:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
    _reserved.extend(sockets)
    return [int(reservation.getsockname()[1]) for reservation in sockets]
