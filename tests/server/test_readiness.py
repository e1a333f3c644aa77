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
from tritonclient.grpc import model_config_pb2 as pb

from tests.conftest import ROOT, Server
from tests.server.test_status import get, numbers

# A flow that hands its inputs on. It fails for large latents; and once a file `broken` lies there,
# until the model is started again.
FLOW = """
import time
from pathlib import Path
import triton_python_backend_utils as pb_utils

LOADED = time.time()
BROKEN = Path(__file__).with_name("broken")

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        latent, z = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("latent", "z")
        )
        if latent.shape[-1] > 8 or (BROKEN.exists() and LOADED < BROKEN.stat().st_mtime):
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("a GPU error"))
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


def ask(server: Server, side: int = 32) -> str:
    """Ask for a volume; return `made`, or the status of the error."""
    tensors = []
    for name, values in (("size", [side] * 3), ("steps", [1])):
        tensors.append(grpc.InferInput(name, [len(values)], "INT32"))
        tensors[-1].set_data_from_numpy(np.array(values, np.int32))
    try:
        with grpc.InferenceServerClient(server.grpc) as client:
            client.infer("mini", tensors, client_timeout=30)
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


@pytest.mark.parametrize("broken", ["mini.flow", "mini.flow_masked"])
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
