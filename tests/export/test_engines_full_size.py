"""The official networks at full size in float16, as TensorRT-RTX engines for three GPUs."""

import functools
import shutil
from pathlib import Path

import pytest
import torch

from export import engines, graphs, networks, onnx_export, stages, variant
from export.graphs import Graph

CAPABILITIES = ("8.6", "8.9", "12.0")
OFFICIAL = ("rflow-ct", "rflow-mr", "rflow-mr-brain", "ddpm-ct")


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
    chosen, plan = variant.load(name), folder / "model.plan"
    path = onnx_export.write(graph, folder, "fp16")
    if graph.chain is not None:
        sizes = engines.stage_sizes(chosen)
        for number, stage in enumerate(graph.chain.stages):
            profile = engines.profile(stages.shapes(graph.chain, stage)[0], sizes)
            path, plan = folder / f"{number:02}.onnx", folder / f"{number:02}.plan"
            engines.build(path, plan, "tensorrt-rtx", profile, CAPABILITIES)
        return
    profile = engines.profile(graph.inputs, engines.sizes(chosen, graph))
    engine = engines.build(path, plan, "tensorrt-rtx", profile, CAPABILITIES)
    assert engine.compute_capabilities == CAPABILITIES
    told = {tensor: found.type for tensor, found in (engine.inputs | engine.outputs).items()}
    named = (*graph.inputs, *graph.outputs)
    assert told == {tensor: chosen.tensor_type(tensor, "fp16") for tensor in named}
    weights = sum(parameter.numel() for parameter in graph.module.parameters())
    assert plan.stat().st_size > 2 * 0.9 * weights
    print(f"{name}.{graph.name}: {plan.stat().st_size / 1e6:.0f} MB", flush=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_largest_graph_compiles(tmp_path: Path) -> None:
    graph = made("rflow-ct")["flow_masked"]
    compile_for_three_gpus("rflow-ct", graph, tmp_path)
    assert (tmp_path / "model.onnx.data").stat().st_size > 500e6
    largest = engines.inspect(tmp_path / "model.plan", "tensorrt-rtx").inputs["embedding"].max
    assert largest == (2, 64, 128, 128, 192)
    shutil.rmtree(tmp_path)  # a gigabyte, of which pytest would keep three


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", OFFICIAL)
def test_every_graph_compiles(name: str, tmp_path: Path) -> None:
    for graph in made(name).values():
        compile_for_three_gpus(name, graph, tmp_path / graph.name)
        shutil.rmtree(tmp_path / graph.name)
