"""A float16 embedding between the models, through both endpoints.

The graphs are those of the small variant with a cast at that border: what a float16 build computes
inside is export's to prove.
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
from tests.conftest import Server
from tests.export.weights import tiny
from tests.parity.conftest import Array, Caller, stream


def recast(path: Path, name: str, folder: Path) -> Path:
    """Make `name`, an input or an output, float16 at the border of a graph; return its new file."""
    model = onnx.load(path)
    graph = model.graph
    for value in (*graph.input, *graph.output):
        if value.name == name:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    taken = any(value.name == name for value in graph.input)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = ["single" if found == name else found for found in names]
    if taken:
        graph.node.insert(0, helper.make_node("Cast", [name], ["single"], to=TensorProto.FLOAT))
    else:
        graph.node.append(helper.make_node("Cast", ["single"], [name], to=TensorProto.FLOAT16))
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / path.name)
    return folder / path.name


@pytest.fixture(scope="module")
def half(
    tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Caller, Server]]:
    """Serve the small variant with a float16 embedding."""
    folder = tmp_path_factory.mktemp("half")
    files = {}
    for version in (tiny_repository / "models").glob("tiny.*/1"):
        short = version.parent.name.removeprefix("tiny.")
        files[short] = sorted(path for path in version.iterdir() if path.suffix != ".gitkeep")
    (flow,) = files["flow_masked"]
    files["flow_masked"] = [recast(flow, "embedding", folder / "flow")]
    *others, last, chain = files["mask_encoder"]
    files["mask_encoder"] = [*others, recast(last, "y", folder / "encoder"), chain]
    repository.write(folder / "models", tiny(), {}, files, "onnx", "fp16")
    server = Server(folder / "models", folder / "server.log")
    yield Caller(triton.InferenceServerClient(server.grpc), "tiny"), server
    server.end()


def test_both_endpoints_carry_it(
    half: tuple[Caller, Server], tiny_caller: Caller, mask: Callable[..., Array]
) -> None:
    given: dict[str, Any] = {
        "mask": mask(33, 32, 40),
        "seed": np.array([3]),
        "steps": np.array([3], np.int32),
        "guidance": np.array([2], np.float32),
    }
    caller, server = half
    image, _ = caller.volume(**given)
    assert stream(server, "tiny", **given)[-1].as_numpy("image").tobytes() == image.tobytes()
    labels = given["mask"][None, :32, :32, :32]
    assert caller.network("mask_encoder", labels=labels)["embedding"].dtype == np.float16
    single, _ = tiny_caller.volume(**given)
    assert (image != single).mean() > 0
    assert (np.abs(image.astype(int) - single) <= 2).mean() > 0.99
