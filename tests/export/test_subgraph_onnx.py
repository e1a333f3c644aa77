"""Networks in subgraphs compute what MONAI's do on whole volumes, for slabs of any thickness."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from export import onnx_export, subgraph_onnx
from export.graphs import Graph
from tests.export.weights import shrunk_graphs

# Sides of a latent; the first is cut into slabs.
LATENT = (7, 3, 4)


@pytest.fixture(scope="module")
def ct() -> dict[str, Graph]:
    return shrunk_graphs("rflow-ct")[1]


def example(graph: Graph, rows: int = 1) -> dict[str, torch.Tensor]:
    sides = [4 * side for side in LATENT]
    generator = torch.Generator().manual_seed(0)
    if graph.name == "mask_encoder":
        labels = torch.randint(0, 133, (rows, *sides), generator=generator)
        return {"labels": labels.to(torch.uint8)}
    shape = (1, 1, *sides) if "image" in graph.inputs else (1, 4, *LATENT)
    return {name: torch.randn(shape, generator=generator) for name in graph.inputs}


@pytest.mark.parametrize("name", ["vae_decoder", "vae_encoder", "mask_encoder", "mask_decoder"])
def test_slabs_of_any_thickness_give_the_whole(
    ct: dict[str, Graph], name: str, tmp_path: Path
) -> None:
    graph = ct[name]
    inputs = example(graph, rows=2)
    session = onnx_export.load(onnx_export.write(graph, tmp_path, "fp32"))
    assert isinstance(session, subgraph_onnx.ChainSession)
    (truth,) = onnx_export.evaluate(graph.module, inputs)
    (x,) = (tensor.numpy() for tensor in inputs.values())
    for thickness in (1, 2, 3, 7):
        output = session(x[:, None] if x.ndim == 4 else x, thickness)
        output = output[:, 0] if name == "mask_decoder" else output
        assert output.shape == truth.shape and output.dtype == truth.dtype
        if name == "mask_decoder":  # of 125 random, so nearly equal, scores
            assert (output != truth).mean() < 1e-3
        else:
            assert onnx_export.difference(output, truth) < 2e-6, thickness


def test_what_is_half_in_float16(ct: dict[str, Graph], tmp_path: Path) -> None:
    path = onnx_export.write(ct["vae_decoder"], tmp_path, "fp16")
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    model = onnx.load(tmp_path / "02.onnx")
    types = {tensor.name: tensor.type.tensor_type.elem_type for tensor in model.graph.input}
    types |= {tensor.name: tensor.type.tensor_type.elem_type for tensor in model.graph.output}
    assert types["x"] == types["skip"] == types["y"] == half
    assert {types[name] for name in types if name not in ("x", "skip", "y")} == {single}
    ends = [onnx.load(tmp_path / f"{number:02}.onnx").graph for number in (0, 9)]
    assert ends[0].input[0].type.tensor_type.elem_type == single
    assert ends[1].output[0].type.tensor_type.elem_type == single
    bound = onnx_export.TOLERANCE["fp16"]
    assert 1e-5 < onnx_export.verify(ct["vae_decoder"], path, bound) < bound


def test_a_weight_that_float16_cannot_hold_is_refused(ct: dict[str, Graph], tmp_path: Path) -> None:
    chain = ct["vae_encoder"].chain
    assert chain is not None
    bias = chain.subgraphs[0].conv.bias
    assert bias is not None
    value = bias[0].clone()
    bias[0] = 1e5
    try:
        with pytest.raises(ValueError, match="above 65504, float16's largest"):
            onnx_export.write(ct["vae_encoder"], tmp_path, "fp16")
    finally:
        bias[0] = value


def test_every_subgraph_is_a_valid_graph_of_the_shapes_it_tells(
    ct: dict[str, Graph], tmp_path: Path
) -> None:
    for graph in ct.values():
        if graph.chain is None:
            continue
        onnx_export.write(graph, tmp_path / graph.name, "fp32")
        for number, subgraph in enumerate(graph.chain.subgraphs):
            path = tmp_path / graph.name / f"{number:02}.onnx"
            onnx.checker.check_model(path, full_check=True)
            model = onnx.load(path).graph
            inputs, outputs = subgraph_onnx.shapes(graph.chain, subgraph)
            for tensors, expected in ((model.input, inputs), (model.output, outputs)):
                dims = {t.name: len(t.type.tensor_type.shape.dim) for t in tensors}
                assert dims == {name: len(shape) for name, shape in expected.items()}
