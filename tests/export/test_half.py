"""Float16 graphs: the types inside, and activations whose squares overflow float16."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from monai.networks.blocks import SpatialAttentionBlock
from onnx import TensorProto
from torch import nn

from bench import precision
from export import onnx_export, tensorrt_plans
from export.graphs import Graph
from export.onnx_export import difference, evaluate, random_inputs
from tests.export.weights import shrunk_graphs

SHAPE = ((8, 8, 16), 2)


@pytest.fixture(scope="module")
def ddpm() -> dict[str, Graph]:
    return shrunk_graphs("ddpm-ct")[1]


@pytest.mark.parametrize("name", ["flow_masked", "vae_decoder", "vae_encoder", "mask_flow"])
def test_float16_is_close_with_every_operation_rounded(ddpm: dict[str, Graph], name: str) -> None:
    inputs = random_inputs(ddpm[name], *SHAPE)
    truth = evaluate(ddpm[name].module, inputs)
    for output, expected in zip(precision.rounded(ddpm[name], inputs), truth, strict=True):
        assert output.dtype == np.float32
        assert 0 < difference(output, expected) < onnx_export.TOLERANCE["fp16"]


def test_the_graph_handed_in_stays_float32(ddpm: dict[str, Graph]) -> None:
    module = ddpm["flow_masked"].module
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    half = onnx_export.exportable(module, "fp16")
    assert any(weight.dtype == torch.float16 for weight in half.parameters())
    for name, weight in module.state_dict().items():
        assert weight.dtype == before[name].dtype
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize("name", ["flow_masked", "vae_decoder"])
def test_large_activations_stay_right(ddpm: dict[str, Graph], name: str) -> None:
    inputs = random_inputs(ddpm[name], *SHAPE)
    module = copy.deepcopy(ddpm[name].module)
    scaled = dataclasses.replace(ddpm[name], module=module)
    entry = module.unet.conv_in if name == "flow_masked" else module.decoder.blocks[0].conv
    precision.make_loud(scaled, entry.conv, inputs)
    truth = evaluate(module, inputs)
    outputs = precision.rounded(scaled, inputs)
    half_outputs = precision.rounded(scaled, inputs, "norms in float16")
    for output, half_output, expected in zip(outputs, half_outputs, truth, strict=True):
        assert np.isfinite(output).all()
        assert difference(output, expected) < onnx_export.TOLERANCE["fp16"]
        assert not difference(half_output, expected) < 0.1


def test_a_weight_that_float16_cannot_hold_is_refused(ddpm: dict[str, Graph]) -> None:
    module = copy.deepcopy(ddpm["flow"].module)
    module.unet.conv_in.conv.bias[3] = 1e5
    with pytest.raises(ValueError, match=r"bias of Conv3d.* above 65504"):
        onnx_export.exportable(module, "fp16")


@pytest.mark.slow
def test_what_stays_float32_in_the_file(ddpm: dict[str, Graph], tmp_path: Path) -> None:
    path = onnx_export.write(ddpm["mask_flow"], tmp_path, "fp16")
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input)}
    types |= {weight.name: weight.data_type for weight in graph.initializer}
    kinds: dict[str, set[int]] = {}
    for node in graph.node:
        kinds.setdefault(node.op_type, set()).update(types[name] for name in node.input[:1])
    assert kinds["Conv"] == {TensorProto.FLOAT16}
    assert kinds["Softmax"] == kinds["ReduceMean"] == kinds["Sin"] == {TensorProto.FLOAT}
    borders = [tensor.type.tensor_type.elem_type for tensor in (*graph.input, *graph.output)]
    assert set(borders) == {TensorProto.FLOAT}
    large = [weight for weight in graph.initializer if len(weight.dims) == 5]
    assert {weight.data_type for weight in large} == {TensorProto.FLOAT16}
    bound = onnx_export.TOLERANCE["fp16"]
    assert 1e-5 < onnx_export.verify(ddpm["mask_flow"], path, bound) < bound


def test_the_mask_embedding_crosses_in_float16(ddpm: dict[str, Graph], tmp_path: Path) -> None:
    path = onnx_export.write(ddpm["mask_encoder"], tmp_path, "fp16")
    graph = onnx.load(tmp_path / "03.onnx").graph
    assert graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    assert ddpm["flow_masked"].dtype("embedding", "fp16") == torch.float16
    bound = onnx_export.TOLERANCE["fp16"]
    assert 1e-5 < onnx_export.verify(ddpm["mask_encoder"], path, bound) < bound


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        keywords = {"spatial_dims": 3, "num_channels": 64, "num_head_channels": 32}
        self.block = SpatialAttentionBlock(**keywords, norm_num_groups=8, include_fc=True)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.block(embedding)
        return out


@pytest.mark.slow
def test_tensorrt_rtx_never_holds_the_matrix_of_attention(tmp_path: Path) -> None:
    shape = (1, 64, "x", "y", "z")
    tensors = {"embedding": shape}, {"attended": shape}
    types = {"embedding": "FP16", "attended": "FP16"}
    graph = Graph("attention", Attending().requires_grad_(False), *tensors, types)
    plans = {}
    for kind in ("fp16", "fp32"):
        path = onnx_export.write(graph, tmp_path / kind, kind)
        profile = {"embedding": ((1, 64, 2, 2, 2), (1, 64, 16, 16, 16), (1, 64, 32, 32, 28))}
        tensorrt_plans.build(path, path.with_suffix(".plan"), "tensorrt-rtx", profile, ["8.9"])
        plans[kind] = path.with_suffix(".plan").read_bytes()
    kernel = b"fused_multihead_flash_attention"
    assert kernel in plans["fp16"]
    assert kernel not in plans["fp32"]
