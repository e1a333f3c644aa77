"""TensorRT-RTX plans, built without a GPU, and the errors where a plan cannot be built."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import re
import resource
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from polygraphy.backend.base import BaseRunner
from polygraphy.common import FormattedArray, TensorMetadata

from export import (
    graphs,
    networks,
    onnx_export,
    profiles,
    subgraph_onnx,
    tensorrt_plans,
    tensorrt_process,
)
from export import variant as variants
from export.graphs import Graph
from export.profiles import Profile
from export.tensorrt_plans import TensorRange
from tests.export.decoder_onnx import write as write_decoder

CAPABILITIES = ("8.6", "8.9", "12.0")
MODELS = Path(__file__).parents[2] / "model_repository"
CHECKPOINTS = MODELS.parent / "export" / "checkpoints"
FOLDER = tempfile.TemporaryDirectory(prefix="decoder-")
DECODER = write_decoder(Path(FOLDER.name) / "model.onnx")
DECODED: Profile = {"latent": ((1, 4, 8, 8, 8), (1, 4, 24, 32, 24), (1, 4, 48, 64, 64))}
without_gpu = pytest.mark.skipif(
    tensorrt_process.gpu_capability() is not None, reason="there is a GPU here"
)
# Names of ONNX's types, and Triton's.
TYPES = {"FLOAT": "FP32", "FLOAT16": "FP16", "INT64": "INT64", "UINT8": "UINT8"}


def types_of(path: Path) -> dict[str, str]:
    model = onnx.load(path, load_external_data=False).graph
    kind = onnx.TensorProto.DataType.Name
    return {
        tensor.name: TYPES[kind(tensor.type.tensor_type.elem_type)]
        for tensor in (*model.input, *model.output)
    }


@pytest.fixture(scope="module")
def graphs_of_mini() -> dict[str, Graph]:
    mini = variants.load("mini")
    return {graph.name: graph for graph in graphs.graphs(mini, networks.load(mini, CHECKPOINTS))}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a decoder as a plan for one GPU."""
    plan = tmp_path_factory.mktemp("decoder") / "model.plan"
    tensorrt_plans.build(DECODER, plan, "tensorrt-rtx", DECODED, ["8.9"])
    return plan


def test_the_flow_of_mini_compiles_for_three_gpus(
    graphs_of_mini: dict[str, Graph], tmp_path: Path
) -> None:
    path, plan = MODELS / "mini.flow_masked" / "1" / "model.onnx", tmp_path / "model.plan"
    graph = graphs_of_mini["flow_masked"]
    profile = profiles.profile(graph.inputs, profiles.sizes(variants.load("mini"), graph))
    description = tensorrt_plans.build(
        path, plan, "tensorrt-rtx", profile, ["12.0", "8.6", "8.9", "8.6"]
    )
    assert tensorrt_plans.inspect(plan, "tensorrt-rtx") == description
    assert description.compute_capabilities == CAPABILITIES
    assert {**description.inputs, **description.outputs}.keys() == types_of(path).keys()
    for tensor, kind in types_of(path).items():
        assert {**description.inputs, **description.outputs}[tensor].type == kind
    assert description.inputs["latent"] == TensorRange("FP32", (1, 4, 8, 8, 8), (1, 4, 64, 64, 64))
    assert description.inputs["spacing_mm100"] == TensorRange("FP32", (1, 3), (2, 3))
    assert description.inputs["embedding"].max == (2, 32, 64, 64, 64)
    assert description.inputs["coefficients"] == TensorRange("FP32", (3,), (3,))
    assert {path.name for path in tmp_path.iterdir()} == {"model.plan", "model.plan.json"}


# One of each kind: bits and stride; a norm; a shortcut; interpolation; the last of both halves.
SUBGRAPHS = [
    ("mask_encoder", 0),
    ("mask_encoder", 2),
    ("vae_decoder", 0),
    ("vae_decoder", 5),
    ("vae_decoder", 6),
    ("vae_decoder", 11),
    ("vae_encoder", 3),
]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_subgraphs_of_mini_compile(
    graphs_of_mini: dict[str, Graph], precision: str, tmp_path: Path
) -> None:
    for name, number in SUBGRAPHS:
        graph = graphs_of_mini[name]
        assert graph.chain is not None
        subgraph = graph.chain.subgraphs[number]
        onnx_export.write(graph, tmp_path / name, precision)
        chain = subgraph_onnx.describe(graph.chain, precision)
        sizes = profiles.subgraph_sizes(variants.load("mini"), chain, graph.inputs)
        profile = profiles.profile(subgraph_onnx.shapes(graph.chain, subgraph)[0], sizes)
        path, plan = tmp_path / name / f"{number:02}.onnx", tmp_path / "one.plan"
        innermost = tensorrt_plans.innermost_tensors(chain)[path.stem]
        assert bool(innermost) == (precision == "fp16")
        description = tensorrt_plans.build(
            path, plan, "tensorrt-rtx", profile, ["8.9"], innermost=innermost
        )
        tensors = {**description.inputs, **description.outputs}
        assert {tensor: tensors[tensor].type for tensor in tensors} == types_of(path)
        slab = description.inputs["x"]
        planes = graph.chain.activations[subgraph.input].planes
        # Guidance has a mask with lesions and one without.
        rows = 2 if name == "mask_encoder" else 1
        assert (slab.min[0], slab.max[0]) == (1, rows)
        assert (slab.min[2], slab.max[2]) == (planes + 2, 16 * planes + 2)
        assert (slab.min[3], slab.max[4]) == (8 * planes, 64 * planes)


def test_channels_are_innermost_between_subgraphs_of_float16(
    graphs_of_mini: dict[str, Graph], tmp_path: Path
) -> None:
    graph = graphs_of_mini["mask_encoder"]
    assert graph.chain is not None
    onnx_export.write(graph, tmp_path, "fp16")
    chain = subgraph_onnx.describe(graph.chain, "fp16")
    innermost = tensorrt_plans.innermost_tensors(chain)
    assert innermost["00"] == ["y"] and innermost["01"] == ["x", "y"] and innermost["05"] == ["x"]
    decoder = subgraph_onnx.describe(graphs_of_mini["vae_decoder"].chain, "fp16")
    assert tensorrt_plans.innermost_tensors(decoder)["09"] == ["x", "y", "shortcut"]
    assert tensorrt_plans.innermost_tensors(decoder)["10"] == ["x", "skip", "y"]
    for subgraph in decoder["subgraphs"]:
        if subgraph["file"] == "00":
            decoder["activations"][subgraph["output"]]["channels"] = 12
    assert tensorrt_plans.innermost_tensors(decoder)["00"] == []  # it would be padded
    sizes = profiles.subgraph_sizes(variants.load("mini"), chain, graph.inputs)
    inputs = subgraph_onnx.shapes(graph.chain, graph.chain.subgraphs[1])[0]
    activation_bytes = [
        tensorrt_plans.build(
            tmp_path / "01.onnx",
            tmp_path / "one.plan",
            "tensorrt-rtx",
            profiles.profile(inputs, sizes),
            ["8.9"],
            innermost=names,
        ).activation_bytes
        for names in ([], innermost["01"])
    ]
    assert None not in activation_bytes
    # The plan with the usual layout also holds its input and output in the other layout.
    assert activation_bytes[1] < 0.7 * activation_bytes[0]


def test_a_plan_runs_on_arrays_with_channels_innermost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """polygraphy's own runner and checks, over an engine that adds one to its input."""
    array = np.arange(2 * 8 * 3 * 4 * 5, dtype=np.float16).reshape(2, 8, 3, 4, 5)
    names = ("x", "mean", "y")

    class Runner(BaseRunner):  # type: ignore[misc]
        def __init__(self, loader: Any, allocation_strategy: str) -> None:
            super().__init__()
            self.engine = SimpleNamespace(
                num_io_tensors=len(names),
                get_tensor_name=lambda index: names[index],
                get_tensor_format=lambda name: (
                    trt.TensorFormat.LINEAR if name == "mean" else trt.TensorFormat.DHWC8
                ),
            )

        def activate_impl(self) -> None:
            """Do nothing."""

        def deactivate_impl(self) -> None:
            """Do nothing."""

        def get_input_metadata_impl(self) -> TensorMetadata:
            metadata = TensorMetadata().add("x", array.dtype, array.shape)
            return metadata.add("mean", np.dtype(np.float32), (8,))

        def infer_impl(self, feed_dict: dict[str, Any]) -> dict[str, Any]:
            assert feed_dict["mean"].shape == (8,)
            memory = feed_dict["x"].array
            assert feed_dict["x"].shape == array.shape and memory.shape == (2, 3, 4, 5, 8)
            raw = (memory + 1).view(np.uint8).ravel()
            return {"y": FormattedArray(np.append(raw, np.zeros(64, np.uint8)), array.shape)}

    trt = tensorrt_process.tensorrt("tensorrt-rtx")
    backend = importlib.import_module("polygraphy.backend.trt")
    monkeypatch.setattr(backend, "TrtRunner", Runner)
    monkeypatch.setattr(backend, "EngineFromPath", lambda path: None)
    monkeypatch.setattr(tensorrt_process, "gpu_capability", lambda: "8.9")
    np.savez(tmp_path / "feed.npz", x=array, mean=np.zeros(8, np.float32))
    output = str(tmp_path / "output.npz")
    tensorrt_process.run("tensorrt-rtx", "plan", [str(tmp_path / "feed.npz")], [output])
    with np.load(output) as arrays:
        np.testing.assert_array_equal(arrays["y"], array + 1)


def test_no_slab_has_a_tensor_that_convolutions_do_not_take(
    graphs_of_mini: dict[str, Graph], tmp_path: Path
) -> None:
    graph = graphs_of_mini["vae_decoder"]
    assert graph.chain is not None
    (number,) = (n for n, x in enumerate(graph.chain.subgraphs) if x.input == "x7")
    onnx_export.write(graph, tmp_path, "fp16")
    mini = variants.load("mini")
    serving = copy.deepcopy(mini.serving)
    serving["size"]["max"] = [256, 2048, 2048]
    large = dataclasses.replace(mini, serving=serving)
    chain = subgraph_onnx.describe(graph.chain, "fp16")
    sizes = profiles.subgraph_sizes(large, chain, graph.inputs)
    # 16 channels, doubled with a plane of either neighbour: 7 latent planes make 2^31 elements.
    assert sizes[-1] == {"rows": 1, "t": 6, "y": 512, "z": 512}
    inputs = subgraph_onnx.shapes(graph.chain, graph.chain.subgraphs[number])[0]
    path, plan = tmp_path / f"{number:02}.onnx", tmp_path / "one.plan"
    engine = tensorrt_plans.build(
        path, plan, "tensorrt-rtx", profiles.profile(inputs, sizes), ["8.9"]
    )
    assert engine.activation_bytes is not None and engine.activation_bytes > 10**9
    thicker = profiles.profile(inputs, (*sizes[:2], {**sizes[-1], "t": 7}))
    plan.unlink()
    refused(
        r"tensor \S+ is \[1, 16, 32, 2048, 2048\] at the largest size, 2147483648 elements,"
        " and at most 2147483647 are possible: build with a smaller --max-size",
        path,
        plan,
        "tensorrt-rtx",
        thicker,
        "8.9",
    )


def attention(path: Path, precision: str) -> None:
    """Write attention of 8 heads as export does: both products in `precision`, softmax float32."""
    node, outer = onnx.helper.make_node, onnx.TensorProto.FLOAT
    inner = onnx.TensorProto.FLOAT16 if precision == "fp16" else outer
    nodes = [
        node("Transpose", ["k"], ["turned"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q", "turned"], ["scores"]),
        node("Cast", ["scores"], ["before"], to=outer),
        node("Softmax", ["before"], ["after"], axis=-1),
        node("Cast", ["after"], ["weights"], to=inner),
        node("MatMul", ["weights", "v"], ["y"]),
    ]
    value = onnx.helper.make_tensor_value_info
    q, k, v, y = (value(name, inner, [1, 8, "t", 32]) for name in "qkvy")
    graph = onnx.helper.make_graph(nodes, "attention", [q, k, v], [y])
    opset = onnx.helper.make_opsetid("", 20)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)


def test_float16_attention_holds_no_weights_and_may_have_more_tokens(tmp_path: Path) -> None:
    path, plan = tmp_path / "model.onnx", tmp_path / "model.plan"

    def profile_up_to(tokens: int) -> Profile:
        return {name: tuple((1, 8, n, 32) for n in (64, 1024, tokens)) for name in "qkv"}

    def activation_bytes(tokens: int) -> int:
        profile = profile_up_to(tokens)
        description = tensorrt_plans.build(path, plan, "tensorrt-rtx", profile, ["8.9"])
        assert description.activation_bytes is not None
        return description.activation_bytes

    weights = 8 * 8192**2 * 2  # bytes in float16
    attention(path, "fp16")
    assert activation_bytes(8192) < weights / 10
    activation_bytes(32768)
    attention(path, "fp32")
    assert activation_bytes(8192) >= 2 * weights
    plan.unlink()
    many = r"tensor \S+ is \[1, 8, 32768, 32768\] .* and attention with --precision fp16$"
    refused(many, path, plan, "tensorrt-rtx", profile_up_to(32768), "8.9")


def test_weights_in_a_file_beside_the_graph_are_found(tmp_path: Path, decoder: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.load(DECODER), path, save_as_external_data=True, location="model.onnx.data")
    assert path.stat().st_size < 0.5 * DECODER.stat().st_size
    plan = tmp_path / "plans" / "model.plan"
    tensorrt_plans.build(path, plan, "tensorrt-rtx", DECODED, ["8.9"])
    assert plan.stat().st_size == pytest.approx(decoder.stat().st_size, rel=0.01)


def refused(
    reason: str, path: Path, plan: Path, target: str, profile: Profile, *capabilities: str
) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        tensorrt_plans.build(path, plan, target, profile, capabilities)
    assert "\n" not in str(caught.value)
    assert not plan.exists() and not list(plan.parent.glob(".*"))


def test_what_cannot_be_built_is_said_in_one_sentence(tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    reason = f"'9.0' is not supported; .*{re.escape('builds for 7.5, 8.0, 8.6, 8.9, 12.0, 12.1')}"
    refused(reason, DECODER, plan, "tensorrt-rtx", DECODED, "8.9", "9.0")
    refused("not one of tensorrt, tensorrt-rtx", DECODER, plan, "onnx", DECODED, "8.9")
    with pytest.raises(FileNotFoundError, match=r"none\.onnx does not exist"):
        tensorrt_plans.build(tmp_path / "none.onnx", plan, "tensorrt-rtx", DECODED, ["8.9"])


def test_a_profile_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    shape = (1, 4, 8, 8, 8)
    for reason, profile in {
        r"it has \['z'\], and .* dynamic sizes in \['latent'\]": {"z": (shape, shape, shape)},
        r"latent is \[1, 4, -1, -1, -1\] in .*, not \[1, 4, 8\]": {"latent": ((1, 4, 8),) * 3},
        r"not \[1, 8, 8, 8, 8\]": {"latent": ((1, 8, 8, 8, 8),) * 3},
        r"\[1, 4, 9, 8, 8\], .* not in ascending": {"latent": ((1, 4, 9, 8, 8), shape, shape)},
    }.items():
        refused(reason, DECODER, plan, "tensorrt-rtx", profile, "8.9")


def test_an_onnx_file_that_does_not_parse_is_named_with_the_reason(tmp_path: Path) -> None:
    plan = tmp_path / "models" / "model.plan"
    truncated = tmp_path / "cut.onnx"
    truncated.write_bytes(DECODER.read_bytes()[:-1000])
    refused(
        "cut.onnx: TensorRT-RTX does not parse it: .*Failed to parse",
        truncated,
        plan,
        "tensorrt-rtx",
        DECODED,
        "8.9",
    )
    bits = tmp_path / "bits.onnx"
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("BitwiseAnd", ["a", "b"], ["c"], name="and")
    kind = onnx.TensorProto.INT32
    tensors = [value(name, kind, [8]) for name in "abc"]
    graph = onnx.helper.make_graph([node], "bits", tensors[:2], tensors[2:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]), bits)
    refused(
        "bits.onnx: .* does not parse it: node and .BitwiseAnd.: ",
        bits,
        plan,
        "tensorrt-rtx",
        {},
        "8.9",
    )


def test_a_compiler_that_cannot_write_or_is_killed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tmp_path / "plans" / "model.plan"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        refused(
            "ended with status 1: OSError: .*File too large",
            DECODER,
            plan,
            "tensorrt-rtx",
            DECODED,
            "8.9",
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    refused(
        "ended with SIGKILL, perhaps because of too little memory",
        DECODER,
        plan,
        "tensorrt-rtx",
        DECODED,
        "8.9",
    )


def test_a_target_that_is_not_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # as if it were not
    with pytest.raises(ValueError, match=r"^TensorRT is not installed here .*pypi.nvidia.com"):
        tensorrt_process.tensorrt("tensorrt")


@without_gpu
def test_what_needs_a_gpu_says_so(decoder: Path, tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    refused("there is none here", DECODER, plan, "tensorrt", DECODED)
    refused("none is given, and this machine has no GPU", DECODER, plan, "tensorrt-rtx", DECODED)
    with pytest.raises(ValueError, match="a GPU is needed, and this machine has none"):
        tensorrt_plans.run(decoder, "tensorrt-rtx", [])


def test_a_plan_and_its_description_belong_together(decoder: Path, tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    shutil.copy(decoder, plan)
    with pytest.raises(FileNotFoundError, match=r"model\.plan\.json does not exist"):
        tensorrt_plans.inspect(plan, "tensorrt-rtx")
    shutil.copy(tensorrt_plans.description_path(decoder), tensorrt_plans.description_path(plan))
    assert tensorrt_plans.inspect(plan, "tensorrt-rtx").compute_capabilities == ("8.9",)
    with pytest.raises(ValueError, match=r"is for tensorrt-rtx, not for tensorrt$"):
        tensorrt_plans.inspect(plan, "tensorrt")
    with plan.open("r+b") as file:
        file.truncate(plan.stat().st_size - 1)
    with pytest.raises(ValueError, match="is not the described plan; build it again"):
        tensorrt_plans.inspect(plan, "tensorrt-rtx")
    content = json.loads(tensorrt_plans.description_path(plan).read_text())
    for damaged in ("{", "[]", json.dumps(content | {"inputs": {"latent": {}}}), json.dumps({})):
        tensorrt_plans.description_path(plan).write_text(damaged)
        with pytest.raises(ValueError, match=r"json is damaged; build it again"):
            tensorrt_plans.inspect(plan, "tensorrt-rtx")
