"""Serve the page from this process until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from .._errors import InvalidRequest, MaisiError, first_line
from .._transport.address import is_loopback
from .app import STATIC, application
from .backend import Target
from .events import Events
from .security import Access
from .state import new_folder, remove_folder

_LAST_SECONDS = 3  # that unfinished requests get at the end


def check_page() -> None:
    """Raise `MaisiError` if files of the page are missing."""
    if not (STATIC / "niivue.js").is_file():
        raise MaisiError(
            "the page needs NiiVue, which is not installed; run scripts/_niivue to get it"
        )


def serve(target: Target, host: str, port: int, on_ready: Callable[[str, str], object]) -> None:
    """Serve the page at `host` and `port` until SIGINT, SIGTERM or SIGHUP; port 0 is a free port.

    `on_ready` is called with the link that opens the page, and with a link that opens it only once.
    Use the second one to start a browser, because other users can see the arguments of a process.
    Raises `InvalidRequest` for an address that cannot be served.
    """
    with _listen(host, port) as listener:
        if hasattr(signal, "SIGHUP"):  # sent when a terminal or an SSH connection ends
            signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
        access = Access(hosts(host, listener.getsockname()[1]))
        with page_server(access, target) as server:
            on_ready(access.link, access.link_once)
            with contextlib.suppress(KeyboardInterrupt):  # raised by uvicorn after its end
                asyncio.run(server.serve(sockets=[listener]))


@contextlib.contextmanager
def page_server(access: Access, target: Target) -> Iterator[uvicorn.Server]:
    """Yield a server of the page that is not started; remove the session's folder at the end."""
    events, folder = Events(), new_folder()
    config = uvicorn.Config(
        application(access, target, folder, events),
        log_level="error",
        access_log=False,
        http="h11",
        loop="asyncio",
        ws="none",
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    try:
        yield _Server(config, events)
    finally:
        remove_folder(folder)


class _Server(uvicorn.Server):
    """A server that ends the streams of events at its shutdown, which would wait for them."""

    def __init__(self, config: uvicorn.Config, events: Events) -> None:
        super().__init__(config)
        self._events = events

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._events.close()
        await super().shutdown(sockets)


def hosts(host: str, port: int) -> tuple[str, ...]:
    """Return the allowed Host headers for an address; for loopback, `localhost` is one of them."""
    name = f"[{host}]" if ":" in host else host.lower()
    names = [name, *(["localhost"] * is_loopback(f"{name}:{port}"))]
    ends = [f":{port}", *([""] * (port == 80))]  # browsers leave out the port 80
    return tuple(dict.fromkeys(name + end for name in names for end in ends))


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raises `InvalidRequest` for an address that cannot be served."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            raise InvalidRequest(
                f"host is '{host}', which means every address; the address that the browser opens"
                " is expected"
            )
    if not 0 <= port < 2**16:
        raise InvalidRequest(f"port is {port}; 0 to {2**16 - 1} are allowed")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise InvalidRequest(f"{host}:{port} cannot be served: {first_line(error)}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        raise InvalidRequest(f"{host}:{port} cannot be served: {first_line(error)}") from error
    return listener
