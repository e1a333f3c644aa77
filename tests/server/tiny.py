"""A model repository small enough to start in a second, with every kind of model in it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import tritonclient.grpc as grpc
from onnx import TensorProto, helper

from tests.conftest import PATIENCE

HEAD = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils

def square(x):
    tensor = pb_utils.Tensor("x", x)
    request = pb_utils.InferenceRequest(
        model_name="square", requested_output_names=["y"], inputs=[tensor])
    response = request.exec()
    if response.has_error():
        raise pb_utils.TritonModelException(response.error().message())
    return pb_utils.get_output_tensor_by_name(response, "y").as_numpy()
"""

# Takes x seconds, and calls another model meanwhile, as a sampler does.
SLOW = f"""{HEAD}
class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy().copy()
        try:
            for _ in range(int(x[0] * 10)):
                y = square(x)
                time.sleep(0.1)
        except pb_utils.TritonModelException as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", y)])
"""

# Sends x squared ten times a second, for x seconds.
STREAM = f"""{HEAD}
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy().copy()
            for _ in range(int(x[0] * 10)):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("y", square(x))]))
                time.sleep(0.1)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

# Makes a "volume" of the size in the request; fails once a file `broken` is beside the model, until
# the model is loaded again.
VOLUME = f"""{HEAD}
from pathlib import Path
LOADED = time.time()
BROKEN = Path(__file__).with_name("broken")

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        size = pb_utils.get_input_tensor_by_name(request, "size").as_numpy()
        if BROKEN.exists() and LOADED < BROKEN.stat().st_mtime:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("a GPU error"))
        if size[0] > 8:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("size is above 8"))
        return pb_utils.InferenceResponse([pb_utils.Tensor("image", np.zeros(size, np.int16))])
"""

ONE = "instance_group [{ count: 1 }]\n"
X_TO_Y = """
input [{ name: "x" data_type: TYPE_FP32 dims: [-1] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [-1] }]
"""
VOLUME_TENSORS = """
input [{ name: "size" data_type: TYPE_INT32 dims: [3] },
       { name: "steps" data_type: TYPE_INT32 dims: [1] }]
output [{ name: "image" data_type: TYPE_INT16 dims: [-1, -1, -1] }]
"""


def write_model(repository: Path, name: str, config: str, source: str | None = None) -> Path:
    """Write one model; return the folder of its version 1."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(f'name: "{name}"\nmax_batch_size: 0\n{config}')
    if source:
        (version / "model.py").write_text(source)
    return version


def write_onnx(path: Path, nodes: list[onnx.NodeProto], outputs: list[str], rank: int = 1) -> None:
    """Write a graph of float32 input `x` and `outputs`, all of `rank` free dimensions."""

    def tensor(name: str) -> onnx.ValueInfoProto:
        shape = [f"{name}{axis}" for axis in range(rank)]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(nodes, "graph", [tensor("x")], [tensor(name) for name in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def write_repository(repository: Path, smallest: int = 4) -> Path:
    """Write models square, slow, stream, slow_square and the variant tiny; return `repository`."""
    version = write_model(repository, "square", f'backend: "onnxruntime"\n{ONE}{X_TO_Y}')
    write_onnx(version / "model.onnx", [helper.make_node("Mul", ["x", "x"], ["y"])], ["y"])
    write_model(repository, "slow", f'backend: "python"\n{ONE}{X_TO_Y}', SLOW)
    decoupled = "model_transaction_policy { decoupled: true }"
    write_model(repository, "stream", f'backend: "python"\n{ONE}{X_TO_Y}{decoupled}', STREAM)
    steps = """ensemble_scheduling { step [
      { model_name: "slow" model_version: -1
        input_map { key: "x" value: "x" } output_map { key: "y" value: "x2" } },
      { model_name: "square" model_version: -1
        input_map { key: "x" value: "x2" } output_map { key: "y" value: "y" } }] }"""
    write_model(repository, "slow_square", f'platform: "ensemble"{X_TO_Y}{steps}')
    write_model(repository, "tiny.volume", f'backend: "python"\n{ONE}{VOLUME_TENSORS}', VOLUME)
    variant = json.dumps(json.dumps({"name": "tiny", "size": {"min": [smallest] * 3}}))
    endpoint = f"""platform: "ensemble"{VOLUME_TENSORS}
    parameters {{ key: "variant" value {{ string_value: {variant} }} }}
    ensemble_scheduling {{ step [{{ model_name: "tiny.volume" model_version: -1
      input_map {{ key: "size" value: "size" }} input_map {{ key: "steps" value: "steps" }}
      output_map {{ key: "image" value: "image" }} }}] }}"""
    write_model(repository, "tiny", endpoint)
    return repository


def inputs(x: float) -> list[grpc.InferInput]:
    """Return the input `x` of a model."""
    tensor = grpc.InferInput("x", [1], "FP32")
    return [tensor.set_data_from_numpy(np.array([x], np.float32))]


def infer(address: str, model: str, x: float, timeout: float = PATIENCE) -> float:
    """Return the output of a model for `x`; slow and slow_square take x seconds."""
    with grpc.InferenceServerClient(address) as client:
        result = client.infer(model, inputs(x), client_timeout=timeout)
        return float(result.as_numpy("y")[0])
