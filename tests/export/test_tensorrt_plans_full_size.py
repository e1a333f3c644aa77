"""The official networks at full size in float16, as TensorRT-RTX engines for three GPUs."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pytest
import torch

from export import (
    cache,
    graphs,
    networks,
    onnx_export,
    profiles,
    subgraph_onnx,
    tensorrt_plans,
)
from export import variant as variants
from export.graphs import Graph

CAPABILITIES = ("8.6", "8.9", "12.0")


@functools.lru_cache(maxsize=1)
def graphs_of(name: str) -> dict[str, Graph]:
    """Return the graphs of a variant with random weights, none of them zero."""
    torch.manual_seed(0)
    variant = variants.load(name)
    loaded = {}
    for role in variant.networks:
        with torch.device("meta"):  # MONAI's initialisation is slow, and zero in some layers
            network = networks.build(variant, role)
        loaded[role] = network.to_empty(device="cpu").eval().requires_grad_(False)
        for parameter in loaded[role].parameters():
            parameter.normal_(std=0.02)
    scales = {"scale_factor": 1.0, "mask_scale_factor": 1.0, "digests": {}}
    return {
        graph.name: graph for graph in graphs.graphs(variant, networks.Networks(**loaded, **scales))
    }


def compile_for_three_gpus(name: str, graph: Graph, folder: Path) -> None:
    """Build all of a graph's plans at the variant's largest sizes, and print their sizes."""
    variant, path = variants.load(name), onnx_export.write(graph, folder, "fp16")
    if graph.chain is None:
        shapes = {"model": profiles.profile(graph.inputs, profiles.sizes(variant, graph))}
    else:
        sizes = profiles.subgraph_sizes(variant, json.loads(path.read_bytes()), graph.inputs)
        shapes = {
            f"{number:02}": profiles.profile(subgraph_onnx.shapes(graph.chain, subgraph)[0], sizes)
            for number, subgraph in enumerate(graph.chain.subgraphs)
        }
    for stem, profile in shapes.items():
        plan = folder / f"{stem}.plan"
        engine = tensorrt_plans.build(
            folder / f"{stem}.onnx", plan, "tensorrt-rtx", profile, CAPABILITIES
        )
        assert engine.compute_capabilities == CAPABILITIES
        assert engine.activation_bytes is not None
        size = cache.size_text(plan.stat().st_size, engine.activation_bytes)
        print(f"{name}.{graph.name}: {plan.name} of {size}", flush=True)
    if graph.chain is None:
        types = {name: tensor.type for name, tensor in (engine.inputs | engine.outputs).items()}
        tensors = (*graph.inputs, *graph.outputs)
        assert types == {name: variant.tensor_type(name, "fp16") for name in tensors}
        weights = sum(parameter.numel() for parameter in graph.module.parameters())
        assert plan.stat().st_size > 2 * 0.9 * weights


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", variants.names())
def test_every_graph_compiles_at_the_largest_size(name: str, tmp_path: Path) -> None:
    for graph in graphs_of(name).values():
        compile_for_three_gpus(name, graph, tmp_path / graph.name)
        shutil.rmtree(tmp_path / graph.name)  # up to 1 GB, and pytest keeps three folders
