"""Ready is a server that makes volumes: what it says, and what it does, while they fail."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from google.protobuf import text_format  # type: ignore[import-untyped]
from maisi_client import Client
from tritonclient.grpc import model_config_pb2 as pb

from server import status
from server.status import Health
from server.triton import Smallest, Triton, probe_id
from tests.conftest import ROOT, TOKEN, Server
from tests.server.test_mini_service import later, until_sampling
from tests.server.test_status import get, numbers

# A flow that hands its inputs on, slowly where they are of 64 voxels a side. It fails for those of
# 36 to 60. Others fail once a file `broken` lies there, and hang once `hanging` does, until the
# model is started again; while `short` lies there, it says that it has no memory for them. What
# is of 80 voxels a side takes until `go` lies there.
FLOW = """
import json
import time
from pathlib import Path
import triton_python_backend_utils as pb_utils

LOADED = time.time()

def lies(name):
    return Path(__file__).with_name(name).exists()

def new(name):
    return lies(name) and LOADED < Path(__file__).with_name(name).stat().st_mtime

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        if "maisi_token" not in json.loads(request.parameters() or "{}"):
            error = pb_utils.TritonError("only the stages of mini call it")
            return pb_utils.InferenceResponse(error=error)
        latent, z = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("latent", "z")
        )
        side = latent.shape[-1]
        if 8 < side < 16 or (side == 8 and new("broken")):
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("a GPU error"))
        if side == 8 and lies("short"):
            code = pb_utils.TritonError.UNAVAILABLE
            error = pb_utils.TritonError("out of memory: 9 GB; try again in 3 s", code)
            return pb_utils.InferenceResponse(error=error)
        if side == 8 and new("hanging"):
            time.sleep(600)
        if side == 16:
            time.sleep(0.4)
        while side == 20 and not lies("go"):
            time.sleep(0.05)
        tensors = [pb_utils.Tensor("next_latent", latent), pb_utils.Tensor("velocity", z)]
        return pb_utils.InferenceResponse(tensors)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return mini, but for its flows."""
    for source in (ROOT / "model_repository").glob("mini*"):
        shutil.copytree(source, tmp_path / "models" / source.name)
    for name in ("mini.flow", "mini.flow_masked"):
        folder = tmp_path / "models" / name
        text = (folder / "config.pbtxt").read_text()
        config = text_format.Parse(text, pb.ModelConfig())
        config.backend, config.default_model_filename = "python", ""
        config.ClearField("optimization")
        shutil.rmtree(folder)
        (folder / "1").mkdir(parents=True)
        (folder / "config.pbtxt").write_text(text_format.MessageToString(config))
        (folder / "1" / "model.py").write_text(FLOW)
    return tmp_path / "models"


def sized(side: int) -> list[grpc.InferInput]:
    """Return the inputs of a volume in one step."""
    tensors = []
    for name, values in (("size", [side] * 3), ("steps", [1])):
        tensors.append(grpc.InferInput(name, [len(values)], "INT32"))
        tensors[-1].set_data_from_numpy(np.array(values, np.int32))
    return tensors


def ask(server: Server, side: int = 32) -> str:
    """Ask for a volume; return `made`, or the status of the error."""
    try:
        with grpc.InferenceServerClient(server.grpc) as client:
            client.infer("mini", sized(side), client_timeout=30)
    except grpc.InferenceServerException as error:
        return str(error.status())
    return "made"


@contextmanager
def repeating(work: Callable[[], None], pause: float = 0.05) -> Iterator[None]:
    """Do something again and again, in a thread, with a `pause` in seconds between."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(pause):
            work()

    with ThreadPoolExecutor(1) as pool:
        repeated = pool.submit(repeat)
        try:
            yield
        finally:
            stop.set()
            repeated.result(60)


@contextmanager
def traffic(server: Server, side: int = 32) -> Iterator[list[str]]:
    """Ask all the time; yield the answers, in order."""
    answers: list[str] = []
    with repeating(lambda: answers.append(ask(server, side))):
        yield answers


@contextmanager
def watching(server: Server) -> Iterator[list[int]]:
    """Ask /ready all the time; yield the statuses, each once until it changes."""
    statuses: list[int] = []

    def look() -> None:
        status = get(server.status, "ready")[0]
        if statuses[-1:] != [status]:
            statuses.append(status)

    with repeating(look):
        yield statuses


@pytest.mark.parametrize(
    "broken", [pytest.param("mini.flow", marks=pytest.mark.slow), "mini.flow_masked"]
)
def test_while_volumes_fail_the_server_is_not_ready_and_starts_again(
    start_server: Callable[..., Server],
    repository: Path,
    eventually: Callable[..., None],
    broken: str,
) -> None:
    server = start_server(repository)
    assert ask(server) == "made"
    masked = broken == "mini.flow_masked"
    with watching(server) as statuses:
        (repository / broken / "1" / "broken").touch()
        if masked:  # ordinary volumes are made all the time, but those with a mask are not
            fails = np.full((32, 32, 32), 22, np.uint8)
            tensor = grpc.InferInput("mask", list(fails.shape), "UINT8")
            tensor.set_data_from_numpy(fails)
            with (
                grpc.InferenceServerClient(server.grpc) as client,
                pytest.raises(grpc.InferenceServerException, match="flow_masked failed"),
            ):
                client.infer("mini", [tensor])
        with traffic(server) as answers:
            eventually(lambda: "tritonserver serves again" in server.log, 120)
            eventually(lambda: answers[-3:] == ["made"] * 3, 60)
            eventually(lambda: statuses[-1] == 200, 60)
    assert statuses == [200, 503, 200]  # and no other change between
    reason = server.log.split("; starting tritonserver again")[0].splitlines()[-1]
    assert "cannot make a volume: " in reason and f"the model {broken[5:]} failed" in reason
    assert "at request 'probe'" in reason  # and not the id, by which the models know the server
    assert ("StatusCode.INTERNAL" in answers) != masked
    assert numbers(server.status)['maisi_model_restarts_total{model="tritonserver"}'] == 1


def test_requests_that_fail_by_themselves_do_not_make_a_server_unready(
    start_server: Callable[..., Server], repository: Path, eventually: Callable[..., None]
) -> None:
    server = start_server(repository)
    name = 'nv_inference_request_success{model="mini",version="1"}'
    before: Any = numbers(server.metrics)[name]
    with watching(server) as statuses, traffic(server, 48) as answers:
        # The server makes sure by volumes of its own, twice, five seconds apart.
        eventually(lambda: numbers(server.metrics)[name] >= before + 4, 60)
    assert set(answers) == {"StatusCode.INTERNAL"}
    assert statuses == [200]
    assert "starting tritonserver again" not in server.log


def failed_volumes(server: Server) -> float:
    return sum(
        count
        for name, count in numbers(server.metrics).items()
        if name.startswith('nv_inference_request_failure{model="mini"')
    )


@pytest.mark.slow
def test_a_shortage_while_others_work_neither_makes_unready_nor_starts_again(
    start_server: Callable[..., Server], repository: Path, eventually: Callable[..., None]
) -> None:
    server = start_server(repository)
    short = repository / "mini.flow" / "1" / "short"
    with watching(server) as statuses, Client(server.grpc, retries=0) as client:
        long = later(client.generate, size=[64, 64, 64], steps=50)
        until_sampling(server, "mini.flow")
        short.touch()
        assert ask(server) == "StatusCode.UNAVAILABLE"
        failed = failed_volumes(server)
        assert (
            ask(server, 48) == "StatusCode.INTERNAL"
        )  # so the server looks, by volumes of its own
        eventually(lambda: failed_volumes(server) >= failed + 2, 15)
        assert long.result(60).image.shape == (64, 64, 64)
        short.unlink()
    assert statuses == [200]
    assert "starting tritonserver again" not in server.log


@pytest.mark.slow
def test_a_server_that_is_short_of_memory_at_its_start_is_ready_once_it_is_not(
    start_server: Callable[..., Server], repository: Path, eventually: Callable[..., None]
) -> None:
    short = repository / "mini.flow" / "1" / "short"
    short.touch()
    server = start_server(repository, ready=False)
    out_of_memory = "flow: out of memory: 9 GB"
    eventually(lambda: server.log.count(out_of_memory) >= 3, 60)
    short.unlink()
    server.wait_ready()
    short.touch()  # with nothing else at work it starts again, and then, too, more than once
    assert ask(server, 48) == "StatusCode.INTERNAL"
    eventually(lambda: get(server.status, "ready")[0] == 503, 60)
    eventually(lambda: "starting tritonserver again" in server.log, 60)
    before = server.log.count(out_of_memory)
    eventually(lambda: server.log.count(out_of_memory) >= before + 3, 60)
    short.unlink()
    eventually(lambda: "tritonserver serves again" in server.log, 60)
    eventually(lambda: get(server.status, "ready")[0] == 200, 10)
    assert ask(server) == "made"


def attached(server: Server) -> Triton:
    """Return a connection like the supervisor's to a server that runs."""
    triton = object.__new__(Triton)
    for name in ("http", "metrics"):
        host, _, port = getattr(server, name).rpartition(":")
        setattr(triton, f"_{name}", (host, int(port)))
    triton._key, triton.probe_id = "", probe_id(TOKEN)
    return triton


@pytest.fixture
def health(
    start_server: Callable[..., Server], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Server, Health]]:
    """Watch a server with little patience, beside its own supervisor."""
    for name, seconds in (("PROBE", 3), ("IDLE", 1), ("FAILING", 2)):
        monkeypatch.setattr(status, name, seconds)
    server = start_server(repository)
    watched = Health(attached(server), {"mini": Smallest((32, 32, 32), 22)}, 1800, None)
    yield server, watched
    watched.stopping = True


def test_a_volume_of_its_own_that_hangs_is_a_failure(
    health: tuple[Server, Health], repository: Path, eventually: Callable[..., None]
) -> None:
    _, watched = health
    (repository / "mini.flow" / "1" / "hanging").touch()
    eventually(lambda: watched.ready() is not None, 20)
    assert str(watched.ready()).startswith("cannot make a volume: no answer: timed out")
    assert not watched.triton.activity().running
    eventually(watched.hung, 20)


def test_answers_without_an_image_are_no_volumes(
    health: tuple[Server, Health], eventually: Callable[..., None]
) -> None:
    server, _ = health
    name = 'nv_inference_request_success{model="mini",version="1"}'
    before: Any = numbers(server.metrics)[name]
    # Not too often: Triton 2.51 ends by SIGABRT once in some thousands of streams.
    with Client(server.grpc) as client, repeating(lambda: client.check(size=[32, 32, 32]), 0.3):
        eventually(lambda: numbers(server.metrics)[name] >= before + 4, 20)


def test_nobody_but_the_server_has_requests_that_do_not_count(server: Server) -> None:
    done = 'maisi_requests_total{outcome="done",variant="mini"}'
    with grpc.InferenceServerClient(server.grpc) as client:
        for name in ("probe", "probe-", f"probe-{'0' * 64}", probe_id("")):
            before = numbers(server.metrics).get(done, 0)
            size, steps = sized(32)
            client.infer("mini", [size, steps], request_id=name)
            assert numbers(server.metrics)[done] == before + 1


@pytest.mark.slow
def test_a_server_whose_own_volume_hangs_starts_again(
    start_server: Callable[..., Server], repository: Path, eventually: Callable[..., None]
) -> None:
    server = start_server(repository)
    (repository / "mini.flow" / "1" / "hanging").touch()
    assert ask(server, 48) == "StatusCode.INTERNAL"
    eventually(lambda: get(server.status, "ready")[0] == 503, 90)
    eventually(lambda: "tritonserver serves again" in server.log, 120)
    assert ask(server) == "made"
    assert get(server.status, "ready") == (200, "ok\n")
