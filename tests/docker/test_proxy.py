"""docker/haproxy.cfg before a real server: requests that pass, and those that it refuses."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time

import grpc
import pytest
from maisi_client import Client
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc

from bench import processes
from reliability.attacks_http import packed
from reliability.http2 import END_HEADERS, HEADERS, Connection, connect, frame, grpc_headers, header
from tests.conftest import PATIENCE, ROOT
from tests.docker import tools
from tests.server.metrics import numbers
from tests.server.ports import free_ports

CONFIG = ROOT / "docker" / "haproxy.cfg"
SMALL = {"size": [32, 32, 32], "steps": 2, "seed": 3, "modality": "mri_t1"}
BODY = (
    b'{"inputs": [{"name": "size", "shape": [3], "datatype": "INT32", "data": [32, 32, 32]},'
    b' {"name": "steps", "shape": [1], "datatype": "INT32", "data": [1]}],'
    b' "outputs": [{"name": "report"}]}'
)
BOMB = 200  # MB
MEMORY_CHANGE = 10 << 20  # bytes that tritonserver's memory may differ by


@contextlib.contextmanager
def proxy(server, folder, **variables):
    """Run haproxy; yield its addresses for gRPC and HTTP."""
    ports = free_ports(2)
    settings = {
        "HOST": "127.0.0.1",
        "GRPC_PORT": ports[0],
        "HTTP_PORT": ports[1],
        "GRPC_SERVER": server.grpc,
        "HTTP_SERVER": server.http,
        **variables,
    }
    environment = os.environ | {name: str(value) for name, value in settings.items()}
    with (folder / "haproxy.log").open("w") as log:
        process = subprocess.Popen(
            [tools.haproxy(), "-db", "-f", CONFIG], env=environment, stdout=log, stderr=log
        )
    try:
        addresses = [f"127.0.0.1:{port}" for port in ports]
        for address in addresses:
            until_open(process, address, folder / "haproxy.log")
        yield addresses
    finally:
        process.terminate()
        process.wait(PATIENCE)


def until_open(process, address, log):
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return connect(address).close()
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)


@pytest.fixture(scope="module")
def addresses(server, tmp_path_factory):
    with proxy(server, tmp_path_factory.mktemp("haproxy"), CLIENT_REQUESTS=100_000) as both:
        yield both


@pytest.fixture
def constant_memory(server):
    """Assert that tritonserver's memory does not change in the test."""
    before = processes.private(server.triton.pid)
    with processes.peaks(lambda: processes.private(server.triton.pid)) as most:
        yield
    assert most[0] - before < MEMORY_CHANGE
    assert processes.private(server.triton.pid) - before < MEMORY_CHANGE


def http(address, request, body=b"", headers=()):
    """Send a request by HTTP/1.1; return the status of its answer, 0 without one."""
    lines = [request + " HTTP/1.1", "Host: x", "Connection: close", *headers]
    with contextlib.suppress(ConnectionError), connect(address) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        with contextlib.suppress(ConnectionError):  # refused before all was sent
            connection.sendall(body)
        if line := connection.makefile("rb").readline():
            return int(line.split(b" ")[1])
    return 0


def post(address, body=BODY, *headers, path="/v2/models/mini/infer", length=True):
    sizes = [f"Content-Length: {len(body)}"] if length else []
    return http(address, f"POST {path}", body, [*sizes, *headers])


def test_haproxy_accepts_its_configuration():
    process = subprocess.run(
        [tools.haproxy(), "-c", "-f", CONFIG], capture_output=True, text=True, timeout=PATIENCE
    )
    assert process.returncode == 0, process.stderr
    assert "WARNING" not in process.stderr


def test_our_client_gets_the_same_bytes(server, addresses):
    digests = set()
    for url in (server.grpc, addresses[0]):
        with Client(url) as client:
            digests.add(client.generate(**SMALL).report["sha256"]["image"])
    assert len(digests) == 1


def test_a_client_that_leaves_cancels_its_request(server, addresses, eventually):
    cancelled = 'maisi_requests_total{outcome="cancelled",variant="mini"}'
    before = numbers(server.metrics).get(cancelled, 0)
    with Client(addresses[0]) as client:
        events = client.stream(**{**SMALL, "steps": 900})
        next(events)
        events.close()
    eventually(lambda: numbers(server.metrics).get(cancelled, 0) >= before + 1)


@pytest.mark.parametrize("path", ["/v2", "/v2/health/ready", "/v2/models/mini/config"])
def test_http_passes(addresses, path):
    assert http(addresses[1], f"GET {path}") == 200
    assert post(addresses[1]) == 200
    assert post(addresses[1], path="/v2/models/mini/versions/1/infer") == 200


@pytest.mark.parametrize(
    "request_",
    [
        "GET /",
        "GET /metrics",
        "GET /v2/models/mini.flow/config",
        "GET /v2/models/stats",
        "GET /v2/models/mini/stats",
        "GET /v2/systemsharedmemory/status",
        "GET /v2/logging",
        "GET /v2/models/mini/infer",
        "POST /v2/models/mini.flow/infer",
        "POST /v2/models/mini%2eflow/infer",
        "POST /v2/models/mini/../mini.flow/infer",
        "POST /v2//models/mini/infer",
        "POST /v2/repository/index",
        "POST /v2/repository/models/mini/unload",
        "PUT /v2/models/mini/infer",
    ],
)
def test_other_paths_are_refused(addresses, request_):
    assert http(addresses[1], request_, headers=["Content-Length: 0"]) == 404


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "GZIP", "identity", " gzip"])
def test_compressed_bodies_are_refused(addresses, constant_memory, encoding):
    assert post(addresses[1], packed(BOMB, "gzip"), f"Content-Encoding: {encoding}") == 415


def test_long_and_endless_bodies_are_refused(addresses, constant_memory):
    assert (
        http(addresses[1], "POST /v2/models/mini/infer", headers=["Content-Length: 67108865"])
        == 413
    )
    for length in (False, True):
        body = b"1\r\n \r\n" * 100_000 + b"0\r\n\r\n"
        assert post(addresses[1], body, "Transfer-Encoding: chunked", length=length) == 411


def test_long_heads_are_refused(addresses, constant_memory):
    assert post(addresses[1], BODY, f"x: {'y' * 20_000}") == 400
    assert post(addresses[1], BODY, *[f"x-{number}: y" for number in range(200)]) == 400
    connection = Connection(addresses[0])
    head = frame(HEADERS, END_HEADERS, 1, grpc_headers() + header(b"x", b"y" * 16_000))
    with contextlib.closing(connection):
        connection.socket.sendall(head)
        assert not connection.answer(1).startswith("status 0")


def bomb():
    """Return a request with a mask of zeros, which compresses well."""
    request = pb.ModelInferRequest(model_name="mini")
    request.inputs.add(name="mask", datatype="UINT8", shape=[BOMB << 20, 1, 1])
    request.raw_input_contents.append(bytes(BOMB << 20))
    return request


def test_compressed_messages_are_refused(addresses, constant_memory):
    with grpc.insecure_channel(addresses[0]) as channel:
        infer = rpc.GRPCInferenceServiceStub(channel).ModelInfer
        with pytest.raises(grpc.RpcError) as refused:
            infer(bomb(), compression=grpc.Compression.Gzip, timeout=PATIENCE)
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    "headers",
    [
        header(b"grpc-encoding", b"gzip"),
        header(b"grpc-encoding", b"gzip") + header(b"grpc-encoding", b"identity"),
        header(b"grpc-encoding", b"identity,gzip"),
        header(b"content-encoding", b"gzip"),
    ],
)
def test_an_encoding_beside_identity_is_refused(addresses, constant_memory, headers):
    connection = Connection(addresses[0])
    with contextlib.closing(connection):
        connection.socket.sendall(frame(HEADERS, END_HEADERS, 1, grpc_headers() + headers))
        assert connection.answer(1) in ("no status", "reset 0", "reset 8")


@pytest.mark.parametrize(
    "path", ["/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "/x", "/"]
)
def test_other_services_are_refused(addresses, path):
    with grpc.insecure_channel(addresses[0]) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(path)(b"", timeout=PATIENCE)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_an_address_has_so_many_connections(server, tmp_path):
    with contextlib.ExitStack() as stack:
        _, address = stack.enter_context(proxy(server, tmp_path, CLIENT_CONNECTIONS=5))
        for _ in range(5):
            connection = stack.enter_context(connect(address))
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in connection.makefile("rb").readline()
        assert http(address, "GET /v2/health/live") == 0


def test_an_address_has_so_many_requests(server, tmp_path):
    with proxy(server, tmp_path, CLIENT_REQUESTS=10) as (url, address):
        statuses = [http(address, "GET /v2/health/live") for _ in range(30)]
        # The connections of `until_open`, without a request, may count, too.
        assert statuses[:8] + statuses[10:] == [200] * 8 + [429] * 20
        with Client(url, retries=0) as client, pytest.raises(Exception, match="429"):
            client.generate(**SMALL)


def test_a_connection_without_a_whole_head_is_closed(addresses):
    with contextlib.ExitStack() as stack:
        silent = []
        for address in addresses:
            for start in (b"", b"GET /v2", b"PRI * HT"):
                silent.append(stack.enter_context(connect(address)))
                silent[-1].sendall(start)
        for connection in silent:
            assert connection.makefile("rb").read() is not None  # else it times out


def test_the_port_of_grpc_takes_http2_alone(addresses):
    path = "/inference.GRPCInferenceService/ModelInfer"
    assert post(addresses[0], path=path) == 404
