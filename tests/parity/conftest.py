"""How these tests ask a server: for the shipped variant, and for a small one of random weights."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as triton

from tests.conftest import Server
from tests.export.repository_of_tiny import exported

Array = npt.NDArray[Any]

TYPES = {"u1": "UINT8", "i4": "INT32", "i8": "INT64", "f4": "FP32", "f8": "FP64", "O": "BYTES"}


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

    def volume(self, **inputs: Any) -> tuple[Array, dict[str, Any]]:
        """Ask the ensemble for a volume and its report."""
        answer = self.ask(**inputs)
        return answer["image"], json.loads(answer["report"][0])

    def refusal(self, model: str | None = None, **inputs: Any) -> str:
        """Return the message of the error that these inputs must give."""
        with pytest.raises(triton.InferenceServerException) as caught:
            self.ask(model, **inputs)
        return str(caught.value.message())


@pytest.fixture(scope="session")
def tiny_repository() -> Path:
    """Return a folder with the checkpoints and, in `models/`, the export of a small variant."""
    return Path(exported().name)


@pytest.fixture(scope="session")
def tiny_server(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Serve the small variant."""
    server = Server(tmp_path_factory.mktemp("tiny"), tiny_repository / "models")
    yield server
    server.end()


@pytest.fixture(scope="session")
def caller(server: Server) -> Caller:
    """Ask the shipped variant."""
    return Caller(triton.InferenceServerClient(server.grpc), "mini")


@pytest.fixture(scope="session")
def tiny_caller(tiny_server: Server) -> Caller:
    """Ask the small variant."""
    return Caller(triton.InferenceServerClient(tiny_server.grpc), "tiny")


@pytest.fixture
def mask() -> Callable[..., Array]:
    """Make a mask of random blocks: `mask(x, y, z)`."""

    def make(*shape: int, seed: int = 0) -> Array:
        ids = np.array([0, 22, 120, 131, 150, 168, 176, 227, 228, 240], np.uint8)
        blocks = np.random.default_rng(seed).choice(ids, [-(-side // 5) for side in shape])
        x, y, z = shape
        grown = np.kron(blocks, np.ones((5, 5, 5), np.uint8))[:x, :y, :z]
        return np.ascontiguousarray(grown)

    return make
