"""The embedded server: start, stop, and restart of what died."""

from __future__ import annotations

import os
import queue
import signal
import socket
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc

from tests.conftest import PATIENCE, SHM
from tests.server.bare import files_of
from tests.server.metrics import until_answered
from tests.server.threads import later
from tests.server.tiny import HEAD, X_TO_Y, infer, inputs, write_model, write_repository

Error = grpc.InferenceServerException


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return write_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def served(module_server, repository):
    """Serve the models for tests that leave them as they were."""
    return module_server(repository)


@pytest.fixture
def shared(served):
    served.forget_log()
    return served


def volume(server, size):
    tensors = [grpc.InferInput("size", [3], "INT32"), grpc.InferInput("steps", [1], "INT32")]
    tensors[0].set_data_from_numpy(np.array(size, np.int32))
    tensors[1].set_data_from_numpy(np.array([1], np.int32))
    with grpc.InferenceServerClient(server.grpc) as client:
        return client.infer("tiny", tensors, client_timeout=PATIENCE).as_numpy("image")


class Stream:
    """One decoupled request; `messages` has its answers and errors, and None at its end."""

    def __init__(self, server, seconds):
        self.messages = queue.Queue()
        self.client = grpc.InferenceServerClient(server.grpc)
        self.client.start_stream(self.take)
        self.client.async_stream_infer("stream", inputs(seconds), enable_empty_final_response=True)

    def take(self, result, error):
        if error:
            self.messages.put(error)
        elif result.get_response().parameters["triton_final_response"].bool_param:
            self.messages.put(None)
        else:
            self.messages.put(float(result.as_numpy("y")[0]))

    def rest(self):
        """Return all messages up to the end or an error."""
        messages = []
        while True:
            messages.append(self.messages.get(timeout=PATIENCE))
            if messages[-1] is None or isinstance(messages[-1], Error):
                return messages


def test_ready_line_names_what_answers(shared):
    assert shared.variants == ["tiny"]
    assert infer(shared.grpc, "square", 3) == 9
    assert infer(shared.grpc, "slow_square", 0.3) == pytest.approx(0.3**4)
    assert Stream(shared, 0.2).rest() == [pytest.approx(0.04)] * 2 + [None]
    for address in (shared.http, shared.metrics):
        host, port = address.split(":")
        socket.create_connection((host, int(port)), PATIENCE).close()


def test_nobody_else_on_the_network_is_served(shared):
    listening = [c.laddr.ip for c in shared.triton.net_connections() if c.status == "LISTEN"]
    assert len(listening) >= 3
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


def test_models_are_loaded_and_unloaded_by_nobody_else(shared):
    with grpc.InferenceServerClient(shared.grpc) as client:
        for forbidden in (client.unload_model, client.load_model):
            with pytest.raises(Error, match="restricted"):
                forbidden("square")
    assert infer(shared.grpc, "square", 2) == 4


def test_only_the_chosen_variants_are_loaded(start_server, repository):
    server = start_server(repository, "--models=tiny")
    assert server.variants == ["tiny"]
    with pytest.raises(Error, match="square"):
        infer(server.grpc, "square", 2)


def test_sigterm_lets_running_requests_of_any_model_finish(start_server, repository):
    server = start_server(repository, "--drain-seconds=3600")
    idle = Stream(server, 0)  # its stream stays open; the stop does not wait for it
    unary = later(infer, server.grpc, "slow_square", 2)
    until_answered(server.grpc, "square", before=0)
    stream = Stream(server, 2)
    stream.messages.get(timeout=PATIENCE)
    server.process.send_signal(signal.SIGTERM)
    assert unary.result(PATIENCE) == 16
    assert stream.rest()[-1] is None
    stream.client.close()
    assert server.process.wait(PATIENCE) == 0
    assert server.shared_memory() == []
    assert idle.rest()[0] is None


def test_second_signal_stops_at_once(start_server, repository, eventually):
    server = start_server(repository)
    unary = later(infer, server.grpc, "slow", 600, 600)
    until_answered(server.grpc, "square")
    server.process.send_signal(signal.SIGINT)
    eventually(lambda: "stopping: running requests finish first" in server.log)
    assert server.process.poll() is None
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(PATIENCE) == 0
    with pytest.raises(Error):
        unary.result(PATIENCE)


@pytest.mark.slow
def test_drain_is_bounded(start_server, repository):
    server = start_server(repository, "--drain-seconds=1")
    unary = later(infer, server.grpc, "slow_square", 600, 600)
    until_answered(server.grpc, "square")
    server.stop()
    with pytest.raises(Error):
        unary.result(PATIENCE)


@pytest.mark.parametrize("victim", [pytest.param("slow", marks=pytest.mark.slow), "square"])
def test_killed_model_comes_back_while_others_serve(shared, eventually, victim):
    unary = later(infer, shared.grpc, "slow_square", 600, 600)
    until_answered(shared.grpc, "square")
    died = shared.stub(victim).pid
    os.kill(died, signal.SIGKILL)
    assert volume(shared, [5, 6, 7]).shape == (5, 6, 7)
    with pytest.raises(Error, match=r"not (healthy|ready)"):
        unary.result(PATIENCE)
    eventually(lambda: f"{victim} serves again" in shared.log)
    assert shared.stub(victim).pid != died
    assert infer(shared.grpc, "slow_square", 0.5) == pytest.approx(0.0625)


def test_killed_stream_reports_an_error_and_comes_back(shared, eventually):
    stream = Stream(shared, 600)
    stream.messages.get(timeout=PATIENCE)
    shared.stub("stream").kill()
    assert isinstance(stream.rest()[-1], Error)
    eventually(lambda: "tritonserver serves again" in shared.log)
    assert "the process of stream died; starting tritonserver again" in shared.log
    assert Stream(shared, 0.1).rest()[-1] is None


@pytest.mark.parametrize(
    "end", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)]
)
def test_triton_that_died_or_stands_still_starts_again(start_server, repository, eventually, end):
    server = start_server(repository)
    doomed = later(infer, server.grpc, "slow", 600, 600)
    until_answered(server.grpc, "square")
    before = server.triton.pid
    server.triton.send_signal(end)
    eventually(lambda: "tritonserver serves again" in server.log)
    assert "tritonserver ended by itself with status -9; starting tritonserver" in server.log
    with pytest.raises(Error):
        doomed.result(PATIENCE)
    assert infer(server.grpc, "slow_square", 0.5) == pytest.approx(0.0625)
    assert server.triton.pid != before
    assert server.stop() == 0
    assert server.shared_memory() == []


@pytest.mark.parametrize("victim", ["slow", "square"])
def test_model_that_stands_still_is_ended_and_comes_back(shared, eventually, victim):
    doomed = later(infer, shared.grpc, "slow_square", 600, 600)
    until_answered(shared.grpc, "square")
    shared.stub(victim).suspend()
    eventually(lambda: f"{victim} serves again" in shared.log)
    assert f"the process of {victim} was stopped from outside" in shared.log
    with pytest.raises(Error):
        doomed.result(PATIENCE)
    assert infer(shared.grpc, "slow_square", 0.5) == pytest.approx(0.0625)


@pytest.mark.slow
def test_triton_that_makes_no_volumes_any_more_starts_again(start_server, tmp_path, eventually):
    repository = write_repository(tmp_path)
    server = start_server(repository)
    (repository / "tiny.volume" / "1" / "broken").touch()
    with pytest.raises(Error, match="a GPU error"):
        volume(server, [4, 4, 4])
    eventually(lambda: "tritonserver serves again" in server.log)
    assert "cannot make a volume: " in server.log and "; starting tritonserver again" in server.log
    assert volume(server, [4, 4, 4]).shape == (4, 4, 4)


def test_triton_that_cannot_start_again_ends_the_server(start_server, tmp_path):
    repository = write_repository(tmp_path)
    server = start_server(repository)
    (repository / "square" / "1" / "model.onnx").write_bytes(b"damaged")
    server.triton.kill()
    assert server.process.wait(PATIENCE) == 1
    assert "serve: tritonserver ended with status" in server.log
    assert server.shared_memory() == []


def test_killed_servers_leave_nothing_for_long(shared, start_server, repository, eventually):
    dead, orphaned = (start_server(repository) for _ in range(2))
    # Read before its death, because a server of other tests that starts also removes them.
    assert {path.parent for path in files_of(dead.pid)} == {SHM, Path(tempfile.gettempdir())}
    dead.die()
    triton = orphaned.triton
    os.kill(orphaned.pid, signal.SIGKILL)  # tritonserver does not outlive its supervisor
    eventually(lambda: not triton.is_running() or triton.status() == "zombie")
    files = files_of(shared.pid)
    start_server(repository)
    assert files_of(dead.pid) == files_of(orphaned.pid) == []
    assert files_of(shared.pid) == files != []
    assert infer(shared.grpc, "slow", 0.1) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--metrics-port=70000"], "serve: --metrics-port: 70000 is not a port"),
        (["--repository=/nowhere"], "There is no model repository /nowhere"),
        (["--models=huge"], "has no model 'huge'; it has ["),
        (["--host=192.0.2.1"], "--host: 192.0.2.1 is not an address of this machine."),
    ],
)
def test_wrong_settings_end_with_a_sentence(start_server, repository, args, sentence):
    server = start_server(repository, *args, ready=False)
    assert server.process.wait(PATIENCE) == 1
    assert sentence in server.log
    assert "Traceback" not in server.log


def test_port_in_use_ends_with_a_sentence(shared, start_server, repository):
    port = shared.grpc.split(":")[1]
    second = start_server(repository, "--grpc-port", port, ready=False)
    assert second.process.wait(PATIENCE) == 1
    assert f"port {port} is in use" in second.log


def test_variant_that_cannot_compute_is_not_called_ready(start_server, tmp_path):
    server = start_server(write_repository(tmp_path, smallest=9), ready=False)
    assert server.process.wait(PATIENCE) == 1
    assert server.process.stdout.read() == ""
    assert "tiny loaded but cannot compute" in server.log
    assert "size is above 8" in server.log


def test_model_that_hangs_at_loading_ends_with_a_sentence(start_server, tmp_path):
    source = HEAD + (
        "class TritonPythonModel:\n    def initialize(self, args):\n        time.sleep(600)\n"
    )
    write_model(tmp_path, "hangs", f'backend: "python"{X_TO_Y}', source)
    server = start_server(tmp_path, "--start-seconds=3", ready=False)
    assert server.process.wait(PATIENCE) == 1
    assert "did not load within 3 seconds" in server.log
