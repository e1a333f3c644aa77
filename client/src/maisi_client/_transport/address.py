"""Addresses of servers, and the proxies that gRPC uses for them."""

from __future__ import annotations

import ipaddress
import os
import re

from .._errors import InvalidRequest, printable

DEFAULT_URL = "localhost:8001"
HOST = r"[\w.-]+|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]"  # a name or an IPv4 address, or an IPv6 address
_URL = re.compile(rf"(?:grpc://)?({HOST})(?::([0-9]{{1,5}}))?/?")
# Variables in gRPC's order of precedence, and the only scheme of proxies that gRPC supports:
# https://github.com/grpc/grpc/blob/master/src/core/handshaker/http_connect/http_proxy_mapper.cc
_VARIABLES, _EXCEPTIONS, _SCHEME = (
    ("grpc_proxy", "https_proxy", "http_proxy"),
    ("no_grpc_proxy", "no_proxy"),
    "http://",
)


def addresses(urls: str) -> list[str]:
    """Return the addresses `host:port` in a text with one address, or several with commas.

    Spaces around an address, `grpc://` before it and a slash after it are removed. Raises
    `InvalidRequest` for any other text, such as an address without a port.
    """
    return [_address(url.strip(), urls) for url in urls.split(",")]


def _address(url: str, urls: str) -> str:
    parts = _URL.fullmatch(url)
    if parts is not None and parts[2] is not None and 0 < int(parts[2]) < 2**16:
        return f"{parts[1]}:{parts[2]}"
    why = ""
    if parts is not None and parts[2] is None:
        why = ", without a port"
    elif url.lower().startswith(("http://", "https://")):
        why = ", which is for HTTP"
    raise InvalidRequest(
        f"the url is '{printable(urls, 200)}'{why}; allowed is host:port of the gRPC service, such"
        f" as {DEFAULT_URL}, or several with commas"
    )


def is_loopback(address: str) -> bool:
    """Return whether `host:port` is a loopback address: localhost, 127.0.0.0/8 or ::1."""
    host = address.rpartition(":")[0].strip("[]").lower()
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_variable(address: str) -> str | None:
    """Return the variable with the proxy that gRPC uses for `host:port`; None without a proxy."""
    if is_loopback(address):  # see `channel.connect`
        return None
    host = address.rpartition(":")[0].strip("[]").lower()
    for variable in _EXCEPTIONS:
        if excepted := os.environ.get(variable):
            names = [name.strip().lower() for name in excepted.split(",")]
            if any(name and host.endswith(name) for name in names):
                return None
            break
    for variable in _VARIABLES:
        if proxy := os.environ.get(variable):
            return variable if proxy.lower().startswith(_SCHEME) else None
    return None
