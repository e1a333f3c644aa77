"""Clients of servers with the shipped variant and with small variants of random weights."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from export.arrays import Array
from tests.conftest import PATIENCE, TOKEN, Server
from tests.export.repository_of_tiny import OFFICIAL, exported

TYPES = {
    **{"u1": "UINT8", "i4": "INT32", "i8": "INT64", "f4": "FP32", "f8": "FP64"},
    **{"O": "BYTES", "b1": "BOOL"},
}


def tensors(arrays: dict[str, Any]) -> list[triton.InferInput]:
    """Turn arrays into Triton's inputs."""
    inputs = []
    for name, value in arrays.items():
        array = np.asarray(value)
        kind = array.dtype.str.lstrip("|<>")
        inputs.append(triton.InferInput(name, list(array.shape), TYPES.get(kind, "BYTES")))
        inputs[-1].set_data_from_numpy(array)
    return inputs


@dataclass(frozen=True)
class Caller:
    """A client of one variant."""

    client: triton.InferenceServerClient
    variant: str

    def ask(self, model: str | None = None, **inputs: Any) -> dict[str, Array]:
        """Call a model (the ensemble if none is named) and return its outputs."""
        result = self.client.infer(model or self.variant, tensors(inputs))
        return {out.name: result.as_numpy(out.name) for out in result.get_response().outputs}

    def network(self, short: str, **inputs: Any) -> dict[str, Array]:
        """Call a network as the stages of the variant do, and return its outputs."""
        model, parameters = f"{self.variant}.{short}", {"maisi_token": TOKEN}
        result = self.client.infer(model, tensors(inputs), parameters=parameters)
        return {out.name: result.as_numpy(out.name) for out in result.get_response().outputs}

    def volume(self, **inputs: Any) -> tuple[Array, dict[str, Any]]:
        """Return a volume of the ensemble, and its report."""
        answer = self.ask(**inputs)
        return answer["image"], json.loads(answer["report"].tobytes())

    def refusal(self, model: str | None = None, **inputs: Any) -> str:
        """Return the message of the error that these inputs must give."""
        with pytest.raises(triton.InferenceServerException) as caught:
            self.ask(model, **inputs)
        return str(caught.value.message())


def stream(server: Server, variant: str = "mini", **inputs: Any) -> list[Any]:
    """Return all messages of a request to the stream: results, at the end perhaps an exception."""
    results: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: results.put(error or result))
        client.async_stream_infer(
            f"{variant}.stream", tensors(inputs), enable_empty_final_response=True
        )
        messages: list[Any] = []
        while True:
            message = results.get(timeout=PATIENCE)
            if isinstance(message, triton.InferenceServerException):
                return [*messages, message]
            response = message.get_response()
            if response.outputs:
                messages.append(message)
            if response.parameters["triton_final_response"].bool_param:
                return messages


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the checkpoints and, in `models/`, the export of a small variant."""
    return exported(tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_server(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Serve the small variant."""
    log = tmp_path_factory.mktemp("tiny") / "server.log"
    server = Server(tiny_repository / "models", log)
    yield server
    server.end()


@pytest.fixture(scope="session")
def official_callers(official_server: Server) -> dict[str, Caller]:
    """Return a caller for each of `OFFICIAL`."""
    client = triton.InferenceServerClient(official_server.grpc)
    return {name: Caller(client, name) for name in OFFICIAL}


@pytest.fixture(scope="session")
def caller(server: Server) -> Caller:
    """Return a caller for the shipped variant."""
    return Caller(triton.InferenceServerClient(server.grpc), "mini")


@pytest.fixture(scope="session")
def tiny_caller(tiny_server: Server) -> Caller:
    """Return a caller for the small variant."""
    return Caller(triton.InferenceServerClient(tiny_server.grpc), "tiny")


@pytest.fixture
def mask() -> Callable[..., Array]:
    """Make a mask of random blocks: `mask(x, y, z)`, by default of labels of mini."""
    mini = (0, 22, 120, 131, 150, 168, 176, 227, 228, 240)

    def make(*shape: int, seed: int = 0, ids: Sequence[int] = mini) -> Array:
        sides = [-(-side // 5) for side in shape]
        blocks = np.random.default_rng(seed).choice(np.array(ids, np.uint8), sides)
        x, y, z = shape
        grown = np.kron(blocks, np.ones((5, 5, 5), np.uint8))[:x, :y, :z]
        return np.ascontiguousarray(grown)

    return make
