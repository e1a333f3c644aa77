"""The status port under clients that are silent, slow or wrong: the next one is answered."""

from __future__ import annotations

import contextlib
import re
import resource
import select
import signal
import socket
import subprocess

import psutil
import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families

from server.status_port import BACKLOG, HEAD
from tests.conftest import PATIENCE
from tests.server.bare import Bare
from tests.server.metrics import get
from tests.server.papers import Papers
from tests.server.tiny import write_repository

COUNT = 2000
READY = b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n"
HALF = b"GET /ready HTTP/1.1\r\nHost:"


def connect(address):
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def ask(address, request=READY, end=False):
    """Send bytes, and the end of them with `end`; return all that is answered."""
    with connect(address) as connection:
        connection.sendall(request)
        if end:
            connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read()


def status(answer):
    return int(answer.split(b" ")[1])


@contextlib.contextmanager
def halves(address, count=COUNT):
    """Yield connections that have each sent half a request, and nothing since."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 500:
        pytest.skip(f"needs {count + 500} descriptors, may have {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        connections = []
        for _ in range(count):
            connections.append(stack.enter_context(connect(address)))
            connections[-1].sendall(HALF)
        yield connections


def closed(connections):
    """Return the connections that the server has closed."""
    poll = select.poll()
    by_number = {connection.fileno(): connection for connection in connections}
    for number in by_number:
        poll.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poll.poll(0)]


def answered_before_a_silent_client_is_cut_off(address):
    """Ask while a new connection is silent; return whether it was still open at the answer."""
    with connect(address) as silent:
        silent.sendall(HALF)
        assert ask(address).endswith(b"\r\n\r\nok\n")
        return closed([silent]) == []


def test_silent_clients_keep_nobody_from_being_answered(server, eventually):
    before = psutil.Process(server.pid).num_fds()
    with halves(server.status) as connections:
        # Again where the machine was so busy that the silent client's time was over.
        eventually(lambda: answered_before_a_silent_client_is_cut_off(server.status))
        eventually(lambda: len(closed(connections)) == COUNT)
    eventually(lambda: psutil.Process(server.pid).num_fds() <= before)
    assert status(ask(server.status)) == 200


def test_the_oldest_connection_goes_where_there_are_too_many(tmp_path, eventually):
    descriptors, most = 600, 300
    few = ["sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh"]
    repository = write_repository(tmp_path / "models")
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((tmp_path / "log").open("w"))
        server = stack.enter_context(
            Bare(repository, few, stdout=subprocess.PIPE, stderr=log, text=True)
        ).process
        address = re.search(r"status=(\S+)", server.stdout.readline())[1]
        connections = stack.enter_context(halves(address, 2 * most))
        eventually(lambda: answered_before_a_silent_client_is_cut_off(address))
        oldest = closed(connections)
        assert len(oldest) >= most
        assert oldest == connections[: len(oldest)]
        assert psutil.Process(server.pid).num_fds() < descriptors
        server.send_signal(signal.SIGTERM)  # a stop does not wait for them
        eventually(lambda: len(closed(connections)) == len(connections))
        assert server.wait(PATIENCE) == 0
        server.stdout.close()
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"\r\n\r\n", 400),
        (b"\0" * 100 + b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /ready\r\n\r\n", 400),
        (b"GET /ready HTTP/1.1\r\nx: " + b"y" * HEAD + b"\r\n\r\n", 400),
        (b"GET /" + b"y" * (1 << 20), 400),
        (b"x: y\r\n" * 200_000, 400),
        (b"POST /ready HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"get /ready HTTP/1.1\r\n\r\n", 405),
        (b"GET /ready/ HTTP/1.1\r\n\r\n", 404),
        (b"GET /%2e%2e/metrics HTTP/1.1\r\n\r\n", 404),
        (b"GET /ready HTTP/1.0\r\n\r\n", 200),
        (b"GET /ready HTTP/1.1\r\nx: " + b"y" * (HEAD - 100) + b"\r\n\r\n", 200),
    ],
)
def test_what_is_no_request_is_refused(server, request_, expected):
    answer = ask(server.status, request_)
    assert status(answer) == expected
    assert len(answer) < 1000
    assert (b"Allow: GET, HEAD\r\n" in answer) == (expected == 405)


def test_half_a_request_and_none(server):
    assert status(ask(server.status, HALF, end=True)) == 400
    assert ask(server.status, b"", end=True) == b""


def test_of_requests_in_one_connection_the_first_is_answered(server):
    answer = ask(server.status, READY * 1000)
    assert answer.count(b"HTTP/1.1") == 1
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("path", [b"live", b"ready", b"metrics", b"nothing"])
def test_head_is_get_without_the_body(server, path):
    get = ask(server.status, b"GET /%b HTTP/1.1\r\n\r\n" % path)
    head = ask(server.status, b"HEAD /%b HTTP/1.1\r\n\r\n" % path)
    names = [
        [line.partition(b":")[0] for line in answer.partition(b"\r\n\r\n")[0].split(b"\r\n")]
        for answer in (get, head)
    ]
    assert names[0] == names[1]
    assert head.endswith(b"\r\n\r\n") and len(get) > len(head)
    body = get.partition(b"\r\n\r\n")[2]
    assert b"\r\nContent-Length: %d\r\n" % len(body) in get
    assert b"\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in head


def test_the_text_is_what_prometheus_reads(server):
    text = get(server.status, "metrics")[1]
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {name: family.type for name, family in families.items()} == {
        "maisi_server_ready": "gauge",
        "maisi_server_stopping": "gauge",
        "maisi_shared_memory_free_bytes": "gauge",
        "maisi_model_resident_bytes": "gauge",
        "maisi_model_restarts": "counter",
    }
    assert all(family.documentation for family in families.values())
    names = {sample.name for sample in families["maisi_model_restarts"].samples}
    assert names == {"maisi_model_restarts_total"}
    models = {sample.labels["model"] for sample in families["maisi_model_resident_bytes"].samples}
    assert models == set(server.stubs())


def test_a_client_that_does_not_read_the_metrics_is_cut_off(server, eventually):
    before = psutil.Process(server.pid).num_fds()
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            slow = stack.enter_context(socket.socket())
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            host, _, port = server.status.rpartition(":")
            slow.connect((host, int(port)))
            slow.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert ask(server.status, b"GET /metrics HTTP/1.1\r\n\r\n").endswith(b"\n")
        eventually(lambda: psutil.Process(server.pid).num_fds() <= before)


def metrics_while_triton_is_stopped(server):
    """Return the answers to requests for metrics; [] if some came before it continued."""
    triton = server.triton
    with contextlib.ExitStack() as stack:
        requests = [stack.enter_context(connect(server.status)) for _ in range(20)]
        triton.suspend()
        try:
            for request in requests:
                request.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            for path in (b"live", b"ready"):
                answer = ask(server.status, b"GET /%b HTTP/1.1\r\n\r\n" % path)
                assert status(answer) in (200, 503)
            early = closed(requests)
        finally:
            triton.resume()
        answers = [request.makefile("rb").read() for request in requests]
    return [] if early else answers


def test_metrics_that_take_long_are_computed_once_and_hold_up_nobody(
    start_server, tmp_path, eventually
):
    """The certificate is read from tritonserver, which is stopped meanwhile."""
    papers = Papers(trustme.CA(), tmp_path / "server", "127.0.0.1")
    server = start_server(write_repository(tmp_path / "models"), *papers.server_options)

    def computed_once():
        with contextlib.suppress(OSError, LookupError, psutil.Error):  # the machine was too busy
            answers = metrics_while_triton_is_stopped(server)
            bodies = {answer.partition(b"\r\n\r\n")[2] for answer in answers}
            return {status(answer) for answer in answers} == {200} and len(bodies) == 1

    eventually(computed_once)


def burst_is_answered(address):
    """Return whether as many connections are answered as the kernel queues."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(address)) for _ in range(BACKLOG)]
        for connection in connections:
            connection.sendall(READY)
        answers = [connection.makefile("rb").read() for connection in connections]
    return all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)


def test_the_backlog_holds_a_burst(server, eventually):
    """Open all connections before a request is sent on any of them."""

    def answered():
        # Again where the machine was so busy that the time of the first connections was over.
        with contextlib.suppress(OSError):
            return burst_is_answered(server.status)

    eventually(answered)
