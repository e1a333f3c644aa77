"""A float16 embedding between the models, through both endpoints.

The graphs are those of a small variant with a cast of that tensor; tests of `export` cover the
float16 build itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper

from export import repository
from export.arrays import Array
from tests.conftest import Server
from tests.export.repository_of_tiny import official
from tests.parity.conftest import Caller, stream


def recast(path: Path, name: str, folder: Path) -> Path:
    """Make `name`, an input or an output of a graph, float16; return the new file."""
    model = onnx.load(path)
    graph = model.graph
    for value in (*graph.input, *graph.output):
        if value.name == name:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    is_input = any(value.name == name for value in graph.input)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = ["single" if other == name else other for other in names]
    if is_input:
        graph.node.insert(0, helper.make_node("Cast", [name], ["single"], to=TensorProto.FLOAT))
    else:
        graph.node.append(helper.make_node("Cast", ["single"], [name], to=TensorProto.FLOAT16))
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / path.name)
    return folder / path.name


@pytest.fixture(scope="module")
def half(
    official_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Caller, Server]]:
    """Serve a small variant with a float16 embedding."""
    folder = tmp_path_factory.mktemp("half")
    files = {}
    for version in (official_repository / "models").glob("tiny-ddpm.*/1"):
        short = version.parent.name.removeprefix("tiny-ddpm.")
        files[short] = sorted(path for path in version.iterdir() if path.suffix != ".gitkeep")
    (flow,) = files["flow_masked"]
    files["flow_masked"] = [recast(flow, "embedding", folder / "flow")]
    *others, last, chain = files["mask_encoder"]
    files["mask_encoder"] = [*others, recast(last, "y", folder / "encoder"), chain]
    repository.write(folder / "models", official("tiny-ddpm"), {}, files, "onnx", "fp16")
    server = Server(folder / "models", folder / "server.log")
    yield Caller(triton.InferenceServerClient(server.grpc), "tiny-ddpm"), server
    server.end()


def test_both_endpoints_carry_it(
    half: tuple[Caller, Server], official_callers: dict[str, Caller], mask: Callable[..., Array]
) -> None:
    inputs: dict[str, Any] = {
        "mask": mask(33, 32, 40, ids=(0, 1, 5, 28, 93, 200)),
        "seed": np.array([3]),
        "steps": np.array([3], np.int32),
        "guidance": np.array([2], np.float32),
    }
    caller, server = half
    image, _ = caller.volume(**inputs)
    assert stream(server, "tiny-ddpm", **inputs)[-1].as_numpy("image").tobytes() == image.tobytes()
    labels = inputs["mask"][None, :32, :32, :32]
    assert caller.network("mask_encoder", labels=labels)["embedding"].dtype == np.float16
    single, _ = official_callers["tiny-ddpm"].volume(**inputs)
    assert (image != single).mean() > 0
    assert (np.abs(image.astype(int) - single) <= 2).mean() > 0.99
