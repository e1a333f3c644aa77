"""No signal and no closed terminal or log loses a request."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import termios
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpc

from tests.conftest import PATIENCE
from tests.server.bare import Bare, files_of
from tests.server.metrics import until_answered
from tests.server.tiny import infer, write_repository


@pytest.fixture(autouse=True)
def usual_hangup():
    """Undo an ignored SIGHUP, as nohup leaves it, which servers would inherit."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return write_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture
def pool():
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.mark.parametrize(
    "numbers",
    [
        ["HUP"],
        *(
            pytest.param(numbers, marks=pytest.mark.slow)
            for numbers in (["QUIT"], ["HUP", "HUP"], ["TERM", "HUP"])
        ),
    ],
)
def test_a_running_request_is_answered(start_server, repository, pool, eventually, numbers):
    server = start_server(repository)
    answer = pool.submit(infer, server.grpc, "slow_square", 2)
    until_answered(server.grpc, "square", before=0)
    for number in numbers:
        server.process.send_signal(signal.Signals[f"SIG{number}"])
        # Signals that come together are one, so the next is sent when this one was handled.
        eventually(lambda: "stopping: running requests finish first" in server.log)
    assert answer.result(PATIENCE) == 16
    assert server.process.wait(PATIENCE) == 0
    assert files_of(server.pid) == []


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGQUIT, marks=pytest.mark.slow), signal.SIGTERM]
)
def test_another_signal_stops_at_once(start_server, repository, pool, eventually, number):
    server = start_server(repository)
    answer = pool.submit(infer, server.grpc, "slow_square", 600)
    until_answered(server.grpc, "square")
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "stopping: running requests finish first" in server.log)
    assert server.process.poll() is None
    server.process.send_signal(number)
    assert server.process.wait(PATIENCE) == 0
    assert answer.exception(PATIENCE) is not None
    assert files_of(server.pid) == []


@pytest.mark.slow
def test_nohup_keeps_a_server_when_the_terminal_closes(start_server, repository):
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        server = start_server(repository)
    finally:
        signal.signal(signal.SIGHUP, usual)
    server.process.send_signal(signal.SIGHUP)
    assert infer(server.grpc, "slow_square", 1) == 1
    assert "stopping" not in server.log
    assert server.stop() == 0


def fail(address):
    """Send requests that make Triton and a model write lines of their log."""
    for model in ("nothing", "slow"):
        with grpc.InferenceServerClient(address) as client:
            tensor = grpc.InferInput("wrong", [1], "FP32")
            tensor.set_data_from_numpy(np.zeros(1, np.float32))
            with pytest.raises(grpc.InferenceServerException):
                client.infer(model, [tensor], client_timeout=PATIENCE)


def test_the_terminal_closes(repository, pool):
    master, slave = pty.openpty()

    def own_terminal():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    with Bare(
        repository, stdin=slave, stdout=slave, stderr=slave, preexec_fn=own_terminal
    ) as server:
        os.close(slave)
        log = b""
        while b"ready: " not in log:
            log += os.read(master, 65536)
        answer = pool.submit(infer, server.grpc, "slow_square", 2)
        until_answered(server.grpc, "square", before=0)
        os.close(master)  # the kernel sends SIGHUP, and nothing can be written any more
        assert answer.result(PATIENCE) == 16
        assert server.process.wait(PATIENCE) == 0
        assert files_of(server.process.pid) == []


@pytest.mark.parametrize("stream", ["stdout", pytest.param("stderr", marks=pytest.mark.slow)])
def test_nobody_reads_any_more(repository, stream):
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: subprocess.PIPE}
    with Bare(repository, **streams) as server:
        getattr(server.process, stream).close()
        triton = server.wait_ready()
        fail(server.grpc)
        assert infer(server.grpc, "slow_square", 0.5) == 0.0625
        assert psutil.Process(server.process.pid).children()[0].pid == triton
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
        assert files_of(server.process.pid) == []


@pytest.mark.slow
def test_standard_streams_are_closed(repository):
    closed = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash"]
    with Bare(repository, prefix=closed) as server:
        triton = psutil.Process(server.wait_ready())
        assert infer(server.grpc, "slow_square", 0.5) == 0.0625
        for process in (psutil.Process(server.process.pid), triton):
            paths = {os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)}
            assert paths == {os.devnull}
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
        assert files_of(server.process.pid) == []
