"""The addresses of a server, which are checked before it starts."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

# HTTP listens only here, whatever the host is, because a body in gzip or in tiny chunks makes
# Triton 2.51 leak memory or end (docs/explanation/security.md, Denial of service).
LOOPBACK = "127.0.0.1"
_NEAR = {"0.0.0.0": LOOPBACK, "::": "::1"}


@dataclass(frozen=True)
class Address:
    """The IPv4 or IPv6 address and the ports of a server; 0 is any free port."""

    host: str
    grpc: int
    http: int
    metrics: int
    status: int

    @property
    def near(self) -> str:
        """The address at which this computer reaches the host."""
        return _NEAR.get(self.host, self.host)

    @property
    def listeners(self) -> dict[str, tuple[str, int]]:
        """The host and port of each service by name; HTTP listens only at loopback."""
        return {
            "grpc": (self.host, self.grpc),
            "http": (LOOPBACK, self.http),
            "metrics": (self.host, self.metrics),
            "status": (self.host, self.status),
        }

    @contextmanager
    def reserved(self) -> Iterator[Address]:
        """Yield the address with a numeric host, and with a free port instead of each 0.

        Sockets that do not listen hold the ports until the end, so that no other program gets one
        as a free port. tritonserver can listen there, because it sets SO_REUSEADDR as these sockets
        do. Raises ValueError if the server cannot listen there.
        """
        ports = {name: port for name, (_, port) in self.listeners.items()}
        _check(ports)
        listeners = Address(_resolved(self.host), **ports).listeners
        busy = []
        with ExitStack() as stack:
            # Choose free ports last, so that none of them is one of the fixed ports.
            for name, (host, port) in sorted(listeners.items(), key=lambda item: not item[1][1]):
                reservation = stack.enter_context(socket.socket(family(host)))
                reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    reservation.bind((host, port))
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise ValueError(_refusal(host, port, error)) from None
                    busy.append(f"{host} port {port}")
                else:
                    ports[name] = reservation.getsockname()[1]
            if busy:
                raise ValueError(
                    f"{', '.join(busy)} is in use: stop the program that listens there, or choose"
                    " other ports by --grpc-port, --http-port, --metrics-port, --status-port (0: a"
                    " free one)."
                )
            yield Address(listeners["grpc"][0], **ports)


def family(host: str) -> socket.AddressFamily:
    """Return the family of a numeric address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def joined(host: str, port: int) -> str:
    """Return an address in the form of a URL: `127.0.0.1:8001`, `[::1]:8001`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check(ports: Mapping[str, int]) -> None:
    options: dict[int, str] = {}
    for name, port in ports.items():
        if not 0 <= port <= 65535:
            raise ValueError(f"--{name}-port: {port} is not a port: expected 0 to 65535.")
        if port in options:
            raise ValueError(
                f"{options[port]} and --{name}-port: port {port} is given twice: give each its own."
            )
        if port:
            options[port] = f"--{name}-port"


def _resolved(host: str) -> str:
    """Return the numeric address of a host; IPv4 is preferred."""
    try:
        entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(f"--host: no address of {host!r} is found: {error.strerror}.") from None
    except UnicodeError:
        raise ValueError(f"--host: {host!r} is not the name of a host.") from None
    address = str(min(entries, key=lambda entry: entry[0] != socket.AF_INET)[4][0])
    if ":" in address:
        ipv6 = ipaddress.IPv6Address(address)
        if ipv6.is_link_local:
            raise ValueError(f"--host: {host} is link-local: expected an address without a zone.")
        if ipv6.ipv4_mapped:
            return str(ipv6.ipv4_mapped)
    return address


def _refusal(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host: {host} is not an address of this machine."
    if error.errno == errno.EACCES:
        return f"This user may not listen on port {port}: give a port from 1024 on."
    return f"The server cannot listen on {host} port {port}: {error.strerror}."
