"""The official networks at full size in float16, as TensorRT-RTX engines for three GPUs."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pytest
import torch

from export import build, engines, graphs, networks, onnx_export, stages, variant
from export.graphs import Graph

CAPABILITIES = ("8.6", "8.9", "12.0")


@functools.lru_cache(maxsize=1)
def made(name: str) -> dict[str, Graph]:
    """Return the graphs of a variant with random weights, none of them zero."""
    torch.manual_seed(0)
    chosen = variant.load(name)
    found = {}
    for role in chosen.networks:
        with torch.device("meta"):  # MONAI's own start takes a while, and is zero in places
            network = networks.build(chosen, role)
        found[role] = network.to_empty(device="cpu").eval().requires_grad_(False)
        for parameter in found[role].parameters():
            parameter.normal_(std=0.02)
    scales = {"scale_factor": 1.0, "mask_scale_factor": 1.0, "digests": {}}
    return {
        graph.name: graph for graph in graphs.graphs(chosen, networks.Networks(**found, **scales))
    }


def compile_for_three_gpus(name: str, graph: Graph, folder: Path) -> None:
    """Build all of a graph's plans at the variant's largest sizes, and print what they take."""
    chosen, path = variant.load(name), onnx_export.write(graph, folder, "fp16")
    if graph.chain is None:
        profiles = {"model": engines.profile(graph.inputs, engines.sizes(chosen, graph))}
    else:
        sizes = engines.stage_sizes(chosen, json.loads(path.read_bytes()), graph.inputs)
        profiles = {
            f"{number:02}": engines.profile(stages.shapes(graph.chain, stage)[0], sizes)
            for number, stage in enumerate(graph.chain.stages)
        }
    for stem, profile in profiles.items():
        plan = folder / f"{stem}.plan"
        engine = engines.build(folder / f"{stem}.onnx", plan, "tensorrt-rtx", profile, CAPABILITIES)
        assert engine.compute_capabilities == CAPABILITIES
        assert engine.activation_bytes is not None
        takes = build.memory(plan.stat().st_size, engine.activation_bytes)
        print(f"{name}.{graph.name}: {plan.name} of {takes}", flush=True)
    if graph.chain is None:
        told = {tensor: found.type for tensor, found in (engine.inputs | engine.outputs).items()}
        named = (*graph.inputs, *graph.outputs)
        assert told == {tensor: chosen.tensor_type(tensor, "fp16") for tensor in named}
        weights = sum(parameter.numel() for parameter in graph.module.parameters())
        assert plan.stat().st_size > 2 * 0.9 * weights


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", variant.names())
def test_every_graph_compiles_at_the_largest_size(name: str, tmp_path: Path) -> None:
    for graph in made(name).values():
        compile_for_three_gpus(name, graph, tmp_path / graph.name)
        shutil.rmtree(tmp_path / graph.name)  # up to a gigabyte, of which pytest would keep three
