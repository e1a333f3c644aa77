"""The addresses where a server listens, and the sentences where it cannot."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from maisi_client import Client

from server.address import Address, joined
from tests.conftest import PATIENCE, ROOT

HERE = "127.0.0.1"


def reserved(host, *ports):
    with Address(host, *ports).reserved() as address:
        return address


def test_reserved_ports_differ_and_nobody_else_gets_them():
    with Address(HERE, 0, 0, 0, 0).reserved() as address:
        ports = [port for _, port in address.listeners.values()]
        assert len({*ports, 0}) == 5
        for port in ports:
            with socket.socket() as listener, pytest.raises(OSError, match="in use"):
                listener.bind((HERE, port))
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((HERE, port), PATIENCE)
            # A server with SO_REUSEADDR can listen there, once.
            with socket.create_server((HERE, port)), pytest.raises(OSError, match="in use"):
                socket.create_server((HERE, port))


def test_given_ports_stay():
    free = reserved(HERE, 0, 0, 0, 0)
    assert reserved(HERE, free.grpc, free.http, free.metrics, free.status) == free


def test_names_are_resolved():
    assert reserved("localhost", 0, 0, 0, 0).host == HERE
    assert reserved("127.1", 0, 0, 0, 0).host == HERE
    assert reserved(f"::ffff:{HERE}", 0, 0, 0, 0).host == HERE


def test_how_this_computer_reaches_it():
    addresses = {"0.0.0.0": HERE, "::": "::1", "10.0.0.1": "10.0.0.1", "fd00::2": "fd00::2"}
    assert {host: Address(host, 1, 2, 3, 4).near for host in addresses} == addresses
    assert joined("::1", 8001) == "[::1]:8001"
    assert joined(HERE, 8001) == "127.0.0.1:8001"


@pytest.mark.parametrize(
    ("host", "ports", "sentence"),
    [
        (HERE, (70000, 0, 0, 0), "--grpc-port: 70000 is not a port: expected 0 to 65535."),
        (HERE, (0, 0, -1, 0), "--metrics-port: -1 is not a port: expected 0 to 65535."),
        (HERE, (0, 7001, 0, 7001), "--http-port and --status-port: port 7001 is given twice"),
        (HERE, (7001, 7002, 7001, 7002), "--grpc-port and --metrics-port: port 7001 is given"),
        ("no.such.host.invalid", (0, 0, 0, 0), "--host: no address of 'no.such.host.invalid' is"),
        ("", (0, 0, 0, 0), "--host: no address of '' is found"),
        ("127.0.0.1:80", (0, 0, 0, 0), "--host: no address of '127.0.0.1:80' is found"),
        ("a..b", (0, 0, 0, 0), "--host: 'a..b' is not the name of a host."),
        ("192.0.2.1", (0, 0, 0, 0), "--host: 192.0.2.1 is not an address of this machine."),
        ("192.0.2.1", (7001, 0, 0, 0), "--host: 192.0.2.1 is not an address of this machine."),
        ("2001:db8::1", (0, 0, 0, 0), "--host: 2001:db8::1 is not an address of this machine."),
        ("fe80::1%1", (0, 0, 0, 0), "--host: fe80::1%1 is link-local: expected"),
    ],
)
def test_an_address_that_cannot_be_used_is_named(host, ports, sentence):
    with pytest.raises(ValueError) as error:
        reserved(host, *ports)
    assert str(error.value).startswith(sentence)


def test_ports_in_use_are_all_named():
    with socket.create_server((HERE, 0)) as first, socket.create_server((HERE, 0)) as second:
        port, other_port = (listener.getsockname()[1] for listener in (first, second))
        with pytest.raises(
            ValueError, match=f"{HERE} port {port}, {HERE} port {other_port} is in use"
        ):
            reserved(HERE, port, 0, other_port, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give rights away")
def test_a_port_without_the_right_to_it_is_named():
    code = (
        "from server.address import Address\n"
        "with Address('127.0.0.1', 0, 80, 0, 0).reserved(): pass"
    )
    limited = ["setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"]
    process = subprocess.run(
        [*limited, sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    last = process.stderr.splitlines()[-1]
    assert last == "ValueError: This user may not listen on port 80: give a port from 1024 on."


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def metrics(host, port):
    with socket.create_connection((host, port), PATIENCE) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        return connection.recv(100).split(b"\r\n")[0]


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", pytest.param("::", marks=pytest.mark.slow)])
def test_ipv6(start_server, host):
    server = start_server(ROOT / "model_repository", "--host", host)
    assert server.grpc.startswith(f"[{host}]:")
    assert server.http.startswith(f"{HERE}:")
    hosts = ["::1", HERE] if host == "::" else ["::1"]
    ports = [int(url.rpartition(":")[2]) for url in (server.grpc, server.metrics, server.status)]
    images = set()
    for address in hosts:
        with Client(joined(address, ports[0]), retries=0) as client:
            volume = client.generate(size=[32, 32, 32], steps=1, seed=3)
        images.add(volume.report["sha256"]["image"])
        assert metrics(address, ports[2]) == b"HTTP/1.1 200 OK"
    assert len(images) == 1
    assert metrics("::1", ports[1]) == b"HTTP/1.1 200 OK"
