"""Addresses, ports that are not gRPC's, and proxies of the environment."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import maisi_client
import pytest
from maisi_client import Client, InvalidRequest, ServerUnavailable
from maisi_client._transport.address import addresses, is_loopback, proxy_variable

from tests.conftest import PATIENCE, Server

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
ELSEWHERE = "maisi.invalid:8001"  # RFC 2606: no such name is ever found


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "all_proxy", "no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def refusing_proxy() -> Iterator[str]:
    """Answer 403 to whatever comes; the value is its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    if connection.recv(65536):
                        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:8001", ["localhost:8001"]),
        (" a.b-c_d:1 , [::1]:65535/\n", ["a.b-c_d:1", "[::1]:65535"]),
        ("grpc://10.0.0.1:8001/", ["10.0.0.1:8001"]),
        ("[fe80::1%eth0]:8001", ["[fe80::1%eth0]:8001"]),
    ],
)
def test_addresses(text: str, expected: list[str]) -> None:
    assert addresses(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        *((url, ", without a port") for url in ("localhost", "a:1,b", "[::1]", "grpc://a/")),
        *((url, ", which is for HTTP") for url in ("http://localhost:8000", "HTTPS://a:443/v2")),
        *((url, "") for url in ("", ",", "a:", ":1", "a:0", "a:65536", "a:b", "::1:8001", "a b:1")),
        *((url, "") for url in ("unix:/tmp/a", "a:1/v2", "grpcs://a:1", "a:\uff11", "\udce9:1")),
    ],
)
def test_what_is_no_address_is_one_sentence(text: str, why: str) -> None:
    for client in (Client, maisi_client.aio.Client):
        with pytest.raises(InvalidRequest) as refused:
            client(text or " ")
        sentence = str(refused.value)
        assert (
            f"'{why}; allowed is host:port of the gRPC service, such as localhost:8001" in sentence
        )
        assert sentence.isprintable()


@pytest.mark.parametrize("kind", ["http", "metrics", "status"])
def test_a_port_that_is_not_of_grpc(server: Server, kind: str) -> None:
    url = getattr(server, kind)
    sentence = f"{url} does not answer with gRPC as expected; Triton's gRPC port is 8001"
    with Client(url, retries=0, timeout=PATIENCE) as client:
        for call in (client.info, lambda: client.check(size=[32, 32, 32])):
            with pytest.raises(ServerUnavailable, match=sentence):
                call()

    async def ask() -> None:
        async with maisi_client.aio.Client(url, retries=0, timeout=PATIENCE) as client:
            await client.check(size=[32, 32, 32])

    with pytest.raises(ServerUnavailable, match=sentence):
        asyncio.run(ask())


def test_loopback() -> None:
    for host in ("localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "[::1]"):
        assert is_loopback(f"{host}:8001")
    for host in ("127.example.com", "localhost.example.com", "10.0.0.1", "[::2]", "::1.com", ""):
        assert not is_loopback(f"{host}:8001")


INFO = """
import sys, maisi_client
try:
    print(*maisi_client.Client(sys.argv[1], retries=0).info()["mini"].modalities)
except maisi_client.ServerUnavailable as error:
    sys.exit(str(error))
"""


def in_a_new_process(url: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Print the modalities of mini: gRPC may read the environment once in a process."""
    return subprocess.run(
        [sys.executable, "-c", INFO, url],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_proxy_to_this_machine(
    server: Server, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    url = f"{host}:{server.grpc.rpartition(':')[2]}"
    for variable in (*VARIABLES, "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert "mri_t1" in in_a_new_process(url).stdout

    with Client(url, retries=0) as client:
        assert client.generate(size=[32, 32, 32], steps=1).image.shape == (32, 32, 32)

    async def ask() -> None:
        async with maisi_client.aio.Client(url, retries=0) as client:
            await client.generate(size=[32, 32, 32], steps=1)

    asyncio.run(ask())


def error_by_proxy(variable: str, proxy: str) -> str:
    """Return the error of a connection through a proxy, its last line; gRPC may log before it."""
    result = in_a_new_process(ELSEWHERE, **{variable: proxy})
    sentence = result.stderr.splitlines()[-1]
    assert result.returncode == 1 and "secret" not in sentence
    before, after = f"no server answers at {ELSEWHERE}: ", "; the connection uses the proxy"
    assert sentence.startswith(before) and sentence.endswith(f"{after} of {variable}")
    return sentence


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_proxy_that_refuses_is_named(refusing_proxy: str, variable: str) -> None:
    assert "HTTP proxy returned response code 403" in error_by_proxy(variable, refusing_proxy)


def test_a_proxy_that_is_not_there_is_named() -> None:
    assert "Connection refused" in error_by_proxy("http_proxy", "http://user:secret@127.0.0.1:9")
    error_by_proxy("https_proxy", "http://proxy.invalid:3128")


def test_without_a_proxy_none_is_named() -> None:
    for environment in ({}, {"no_proxy": "x, .invalid", "http_proxy": "http://127.0.0.1:9"}):
        result = in_a_new_process(ELSEWHERE, **environment)
        assert result.stderr.startswith(f"no server answers at {ELSEWHERE}: ")
        assert "proxy" not in result.stderr


def test_which_variable_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_variable(ELSEWHERE) is None
    for variable in reversed(VARIABLES):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
        assert proxy_variable(ELSEWHERE) == variable
        assert proxy_variable("localhost:8001") is None
    monkeypatch.setenv("grpc_proxy", "socks5://127.0.0.1:9")  # which gRPC does not take
    assert proxy_variable(ELSEWHERE) is None
