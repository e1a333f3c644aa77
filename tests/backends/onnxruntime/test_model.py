"""Networks in ONNX files in the real server give the outputs of ONNX Runtime in this process."""

from __future__ import annotations

import os
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import tritonclient.grpc as grpc
from google.protobuf import text_format
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import model_config_pb2 as pb

from backends.engines import openvino
from tests.backends.engines import flows
from tests.backends.shortage import short_of_memory
from tests.conftest import PATIENCE
from tests.server.tiny import ONE, X_TO_Y, write_model, write_onnx

XYZ = """
input [{ name: "x" data_type: TYPE_FP32 dims: [-1, -1, -1, -1, -1] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [-1, -1, -1, -1, -1] }]
"""
ANY_TO_TWO = """
input [{ name: "x" data_type: TYPE_FP32 dims: [-1] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [-1] },
        { name: "pairs" data_type: TYPE_FP32 dims: [-1] }]
"""


HALF = XYZ.replace("FP32", "FP16")


def parameters(**values):
    lines = (
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
        for key, value in values.items()
    )
    return "\n".join(lines)


def convolutions(path):
    """Two 3D convolutions of 1 -> 8 -> 1 channels with a SiLU between them."""
    random = np.random.default_rng(0)
    weights = [
        random.normal(size=shape).astype(np.float32) / 5
        for shape in ((8, 1, 3, 3, 3), (1, 8, 3, 3, 3))
    ]
    nodes = [
        helper.make_node("Constant", [], ["w1"], value=numpy_helper.from_array(weights[0])),
        helper.make_node("Constant", [], ["w2"], value=numpy_helper.from_array(weights[1])),
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1] * 6),
        helper.make_node("Sigmoid", ["a"], ["s"]),
        helper.make_node("Mul", ["a", "s"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["y"], pads=[1] * 6),
    ]
    write_onnx(path, nodes, ["y"], rank=5)


def external_weights(path):
    """Return the convolutions again, their weights in a file beside them, both files hard links."""
    source = path.parents[3] / "made"
    source.mkdir()
    convolutions(source / "one.onnx")
    model = onnx.load(source / "one.onnx")
    for node in list(model.graph.node):
        if node.op_type == "Constant":
            weight = model.graph.initializer.add()
            weight.CopyFrom(node.attribute[0].t)
            weight.name = node.output[0]
            model.graph.node.remove(node)
    onnx.save(
        model,
        source / "model.onnx",
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    for name in ("model.onnx", "model.onnx.data"):
        os.link(source / name, path.with_name(name))
    assert path.with_name("model.onnx.data").stat().st_size >= 2 * 8 * 27 * 4


def doubled_half(path):
    """Return a graph of float16 in and out: y = x + x."""
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, [f"{name}{i}" for i in range(5)])
        for name in "xy"
    )
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "graph", [x], [y])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "repository"
    folder.mkdir()
    plain = f'backend: "onnxruntime"\n{ONE}'
    backend = plain + parameters(engine="onnxruntime")
    for name, threads in {"conv1": 1, "conv4": 4}.items():
        config = backend + XYZ + parameters(thread_count=threads)
        convolutions(write_model(folder, name, config) / "model.onnx")
    convolutions(write_model(folder, "conv", backend + XYZ) / "model.onnx")
    convolutions(write_model(folder, "openvino", plain + XYZ) / "model.onnx")
    renamed = backend + XYZ + 'default_model_filename: "net.onnx"'
    convolutions(write_model(folder, "renamed", renamed) / "net.onnx")
    external_weights(write_model(folder, "external", backend + XYZ) / "model.onnx")
    doubled_half(write_model(folder, "half", backend + HALF) / "model.onnx")
    # `pairs`, the halves' larger numbers, cannot be computed for lists of odd length
    two = numpy_helper.from_array(np.array([2, -1], np.int64))
    nodes = [
        helper.make_node("Add", ["x", "x"], ["y"]),
        helper.make_node("Constant", [], ["two"], value=two),
        helper.make_node("Reshape", ["x", "two"], ["table"]),
        helper.make_node("ReduceMax", ["table"], ["pairs"], axes=[0], keepdims=0),
    ]
    version = write_model(folder, "pairs", backend + ANY_TO_TWO)
    write_onnx(version / "model.onnx", nodes, ["y", "pairs"])
    return folder


@pytest.fixture(scope="module")
def server(module_server, repository):
    """Serve them, and mini's flow by both engines, open to any caller and shape."""
    for name in ("openvino", "onnxruntime"):
        target = repository / f"flow-{name}"
        shutil.copytree(flows.FLOW.parents[1], target)
        text = (target / "config.pbtxt").read_text()
        config = text_format.Parse(text, pb.ModelConfig())
        config.name = target.name
        del config.parameters["network"]
        if name == "onnxruntime":
            config.parameters["engine"].string_value = name
        # Any rank and side, so that Triton itself does not refuse.
        for tensor in config.input:
            tensor.dims[:] = [-1] * len(tensor.dims)
        (target / "config.pbtxt").write_text(text_format.MessageToString(config))
    return module_server(repository)


def infer(server, model, array, outputs=("y",)):
    kind = {np.float32: "FP32", np.float16: "FP16"}[array.dtype.type]
    tensor = grpc.InferInput("x", list(array.shape), kind)
    tensor.set_data_from_numpy(array)
    requested = [grpc.InferRequestedOutput(name) for name in outputs]
    with grpc.InferenceServerClient(server.grpc) as client:
        result = client.infer(model, [tensor], outputs=requested, client_timeout=60)
        return [result.as_numpy(name) for name in outputs]


@pytest.mark.parametrize("model", ["conv", "conv4", "openvino", "renamed", "external"])
@pytest.mark.parametrize("shape", [(16, 16, 16), (7, 20, 33)])
def test_same_numbers_as_in_process(server, repository, model, shape):
    array = np.random.default_rng(1).normal(size=(1, 1, *shape)).astype(np.float32)
    session = onnxruntime.InferenceSession(repository / "conv" / "1" / "model.onnx")
    (expected,) = session.run(["y"], {"x": array})
    (output,) = infer(server, model, array)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def test_float16_inputs_give_float16_outputs(server):
    array = np.random.default_rng(1).normal(size=(2, 3, 4, 5, 6)).astype(np.float16)
    (output,) = infer(server, "half", array)
    assert output.dtype == np.float16
    np.testing.assert_array_equal(output, array + array)


def test_outputs_are_in_the_order_of_the_request(server):
    array = np.array([1, 2, 3, 4], np.float32)
    pairs, doubled = infer(server, "pairs", array, ["pairs", "y"])
    np.testing.assert_array_equal(pairs, [3, 4])
    np.testing.assert_array_equal(doubled, array * 2)
    np.testing.assert_array_equal(infer(server, "pairs", array)[0], array * 2)


def test_an_error_is_one_sentence_without_paths_and_the_next_request_is_served(server):
    with pytest.raises(grpc.InferenceServerException) as caught:
        infer(server, "pairs", np.ones(5, np.float32), ["pairs"])
    message = caught.value.message()
    assert "ONNX Runtime" in message
    assert "Traceback" not in message and ".py" not in message and "/" not in message
    assert "\n" not in message
    assert infer(server, "pairs", np.ones(2, np.float32), ["pairs"])[0] == 1


@pytest.mark.parametrize("model", ["flow-openvino", "flow-onnxruntime"])
def test_after_each_kind_of_failure_the_next_request_is_not_affected(server, model):
    kinds = {np.float32: "FP32", np.float64: "FP64", np.int64: "INT64"}

    def flow(inputs):
        tensors = []
        for name, array in inputs.items():
            tensors.append(grpc.InferInput(name, list(array.shape), kinds[array.dtype.type]))
            tensors[-1].set_data_from_numpy(array)
        with grpc.InferenceServerClient(server.grpc) as client:
            result = client.infer(model, tensors, client_timeout=60)
            return [result.as_numpy(name).tobytes() for name in flows.OUTPUTS]

    pid, expected, failures = server.stub(model).pid, flow(flows.good()), []
    for kind, wrong_inputs in flows.WRONG.items():
        try:
            flow(flows.good() | wrong_inputs)
        except grpc.InferenceServerException as error:
            failures.append(kind)
            assert "Traceback" not in error.message() and "\n" not in error.message()
        assert flow(flows.good()) == expected, kind
    assert {"z of another size", "sides that do not divide", "a side of 0"} <= set(failures)
    assert server.stub(model).pid == pid


def test_thread_parameter_is_honoured(server):
    threads = {model: server.stub(model).num_threads() for model in ("conv", "conv1", "conv4")}
    assert threads["conv4"] - threads["conv1"] == 3
    cores = openvino.cores()
    assert threads["conv"] - threads["conv1"] <= cores - 1
    assert cores == 1 or threads["conv"] > threads["conv1"]


@pytest.mark.parametrize("model", ["conv", "openvino"])
def test_memory_is_returned_after_a_large_request(server, model):
    def rss():
        return server.stub(model).memory_info().rss / 2**20

    small = np.zeros((1, 1, 8, 8, 8), np.float32)
    infer(server, model, small)
    base = rss()
    infer(server, model, np.zeros((1, 1, 128, 128, 160), np.float32))
    infer(server, model, small)
    assert rss() - base < 60  # the graph's two widest tensors take 80 MB each


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"thread_count": "many"}, "thread_count is 'many'"),
        ({"engine": "abacus"}, "engine is 'abacus'; onnxruntime, openvino-bfloat16, or"),
        (None, "ONNX Runtime: "),
    ],
)
def test_a_model_that_cannot_load_says_why(start_server, tmp_path, values, sentence):
    values = {"engine": "onnxruntime"} if (damaged := values is None) else values
    config = f'backend: "onnxruntime"\n{ONE}{X_TO_Y}{parameters(**values)}'
    version = write_model(tmp_path, "broken", config)
    if damaged:
        (version / "model.onnx").write_bytes(b"not a graph")
    else:
        write_onnx(version / "model.onnx", [helper.make_node("Mul", ["x", "x"], ["y"])], ["y"])
    server = start_server(tmp_path, ready=False)
    assert server.process.wait(PATIENCE) == 1
    assert sentence in server.log


def test_without_memory_a_request_is_unavailable_and_the_next_one_is_not_affected(server):
    array = np.random.default_rng(1).normal(size=(1, 1, 96, 96, 96)).astype(np.float32)
    (expected,) = infer(server, "conv", array)
    pid = server.stub("conv").pid
    large = np.zeros((1, 1, 160, 160, 160), np.float32)  # 131 MB a wide tensor
    with (
        short_of_memory(pid, megabytes=100),
        pytest.raises(grpc.InferenceServerException) as caught,
    ):
        infer(server, "conv", large)
    message = caught.value.message()
    assert caught.value.status() == "StatusCode.UNAVAILABLE", message
    assert "out of memory: the request was too large" in message
    assert "/" not in message and "\n" not in message
    assert infer(server, "conv", array)[0].tobytes() == expected.tobytes()
    assert server.stub("conv").pid == pid
