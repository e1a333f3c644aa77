"""PyTorch graphs to ONNX, and the check that both compute the same."""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime
import torch
from onnxscript import optimizer
from torch import nn
from torch.export import Dim

from export import networks, subgraph_onnx
from export.arrays import Array
from export.graphs import Graph, SymbolicShape
from export.half import half, store_in_half

GraphSession: TypeAlias = onnxruntime.InferenceSession | subgraph_onnx.ChainSession
_KINDS = {
    torch.float32: ir.DataType.FLOAT,
    torch.float16: ir.DataType.FLOAT16,
    torch.uint8: ir.DataType.UINT8,
}
# Largest difference allowed between ONNX Runtime and PyTorch, relative to the output's norm;
# docs/explanation/precision.md has the measured differences.
TOLERANCE = {"fp32": 1e-4, "fp16": 5e-3}
# Weights above this size, in bytes, go into a separate file; an ONNX file holds at most 2 GB.
INLINE = 100_000_000
# Latent voxels and rows: those that graphs are traced with, and others for the comparison.
_TRACED, _TRACED_ROWS = (16, 24, 32), 2
CHECKED = (((8, 8, 8), 1), ((8, 16, 8), 2))


def write(graph: Graph, folder: Path, precision: str) -> Path:
    """Export `graph` to `folder/model.onnx`; create the folder if necessary; return the path.

    A graph that has a chain is written as its subgraphs, and the path is that of `chain.json`.
    `precision`: fp32, which stores weights as float16 where that is exact, or fp16. Weights above
    `INLINE` go into `model.onnx.data` beside it. The graph's module stays unchanged.
    Raises ValueError for weights that `precision` cannot hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if graph.chain is not None:
        names = (graph.chain.input, graph.chain.output)
        kinds = {name: _KINDS[graph.dtype(name, precision)] for name in names}
        return subgraph_onnx.write(graph.chain, folder, precision, kinds)
    path = folder / "model.onnx"
    model = to_onnx(graph, precision)
    weights = (value.const_value for value in model.graph.initializers.values())
    large = sum(weight.nbytes for weight in weights if weight is not None) > INLINE
    ir.save(model, path, external_data=f"{path.name}.data" if large else None)
    onnx.checker.check_model(path, full_check=True)
    return path


def to_onnx(graph: Graph, precision: str) -> ir.Model:
    """Export `graph` with its dynamic axes; see `write`."""
    axes = {axis: Dim(axis, min=1) for axis in ("rows", "x", "y", "z")}

    def dynamic(shape: SymbolicShape) -> dict[int, Any]:
        sizes = {}
        for index, size in enumerate(shape):
            if isinstance(size, str):
                factor, axis, _ = _parse(size)
                sizes[index] = axes[axis] if factor == 1 else factor * axes[axis]
        return sizes

    inputs = random_inputs(graph, _TRACED, _TRACED_ROWS)
    with _silence():
        program = torch.onnx.export(
            exportable(graph.module, precision),
            kwargs={name: value.to(graph.dtype(name, precision)) for name, value in inputs.items()},
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes={name: dynamic(shape) for name, shape in graph.inputs.items()},
            dynamo=True,
            opset_version=subgraph_onnx.OPSET,
            verbose=False,
            optimize=False,
        )
    assert program is not None
    model: ir.Model = program.model
    _simplify(model)
    for node in model.graph:
        node.metadata_props.clear()  # the source line of each node
    if precision == "fp32":
        store_in_half(model)
    return model


def _simplify(model: ir.Model) -> None:
    """Apply PyTorch's own passes except shape inference, whose cost is quadratic in nodes."""
    passes.InlinePass()(model)
    optimizer.fold_constants(model, input_size_limit=1024, output_size_limit=1024)
    ir.passes.Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    )(model)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppress the log and the warnings of PyTorch's exporter, which are about itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def exportable(module: nn.Module, precision: str) -> nn.Module:
    """Return a copy of `module` that exports well in `precision`; it shares its parameters."""
    shared = itertools.chain(module.parameters(), module.buffers())
    clone = copy.deepcopy(module, {id(tensor): tensor for tensor in shared}).eval()
    networks.prepare(clone, fuse_upsampling=precision == "fp32")
    return half(clone) if precision == "fp16" else clone


def _parse(size: str) -> tuple[int, str, int]:
    """Return factor, axis and summand of `x`, `8*x` or `8*x+2`."""
    product, _, summand = size.partition("+")
    factor, _, axis = product.rpartition("*")
    return int(factor or 1), axis, int(summand or 0)


def axes(graph: Graph, latent: tuple[int, int, int], rows: int) -> dict[str, int]:
    """Return the sizes of the graph's axes for a latent of `latent` voxels [x, y, z]."""
    shapes = {**graph.inputs, **graph.outputs}
    grid = shapes.get("latent", shapes.get("embedding"))
    assert grid is not None
    sizes = {"rows": rows}
    for size, voxels in zip(grid[-3:], latent, strict=True):
        factor, axis, _ = _parse(str(size))
        sizes[axis] = voxels // factor
    return sizes


def resolve(shape: SymbolicShape, axes: dict[str, int]) -> tuple[int, ...]:
    """Return `shape` with its dynamic axes at the sizes in `axes`."""

    def value(size: int | str) -> int:
        if isinstance(size, int):
            return size
        factor, axis, summand = _parse(size)
        return factor * axes[axis] + summand

    return tuple(value(size) for size in shape)


def random_inputs(
    graph: Graph, latent: tuple[int, int, int], rows: int, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Return random inputs for a latent of `latent` voxels [x, y, z], floats in float32."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {}
    sizes = axes(graph, latent, rows)
    for name, shape in graph.inputs.items():
        size, dtype = resolve(shape, sizes), graph.dtype(name, "fp32")
        if dtype.is_floating_point:
            inputs[name] = torch.randn(size, generator=generator)
        else:
            inputs[name] = torch.randint(0, 33, size, generator=generator).to(dtype)
        if name == "timestep":
            inputs[name] = 1000 * torch.rand(size, generator=generator)
        if name == "spacing_mm100":
            inputs[name] = 100 + 200 * torch.rand(size, generator=generator)
        if name.endswith("region_index"):
            regions = torch.randint(0, size[1], size[:1], generator=generator)
            inputs[name] = 100.0 * torch.eye(size[1])[regions]
    return inputs


def verify(graph: Graph, path: Path, tolerance: float) -> float:
    """Run the ONNX file at `path` in ONNX Runtime at the sizes in `CHECKED`.

    Return the largest `difference` to `graph.module`. Raises ValueError above `tolerance`.
    """
    session = load(path)
    worst = 0.0
    for seed, (latent, rows) in enumerate(CHECKED):
        inputs = random_inputs(graph, latent, rows, seed)
        errors = map(difference, run(session, inputs), evaluate(graph.module, inputs))
        worst = max(worst, *errors)
    if worst > tolerance:
        raise ValueError(
            f"{graph.name}: ONNX Runtime differs from PyTorch by {worst:.1e}, "
            f"more than {tolerance:.0e}"
        )
    return worst


def load(path: Path) -> GraphSession:
    """Return a session of ONNX Runtime on the CPU for the graph at `path`, a result of `write`."""
    if path.suffix == ".json":
        return subgraph_onnx.ChainSession(
            path, lambda stem: subgraph_onnx.SubgraphSession(_session(stem.with_suffix(".onnx")))
        )
    return _session(path)


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def outputs(session: GraphSession) -> list[str]:
    """Return the names of a session's outputs, in order."""
    if isinstance(session, subgraph_onnx.ChainSession):
        return [session.chain.output]
    return [output.name for output in session.get_outputs()]


def tensors(arrays: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the arrays as tensors, the type that `run` takes."""
    return {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in arrays.items()}


def run(session: GraphSession, inputs: dict[str, torch.Tensor]) -> list[Array]:
    """Run a session on `inputs`, cast to float16 where it takes that; a chain in thin slabs."""
    if isinstance(session, subgraph_onnx.ChainSession):
        (x,) = (tensor.numpy() for tensor in inputs.values())
        y = session(x[:, None] if x.ndim == 4 else x)
        return [y[:, 0] if y.dtype == np.uint8 else y]
    feeds = {}
    for tensor in session.get_inputs():
        array = inputs[tensor.name].numpy()
        feeds[tensor.name] = array.astype(np.float16) if "float16" in tensor.type else array
    results: list[Array] = session.run(None, feeds)
    return results


def evaluate(module: nn.Module, inputs: dict[str, torch.Tensor]) -> list[Array]:
    """Return the outputs of a module for `inputs`, in order."""
    with torch.no_grad():
        outputs = module(**inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return [output.numpy() for output in outputs]


def difference(output: Array, truth: Array) -> float:
    """Return the norm of the difference over that of `truth`; for labels, the share that differs.

    Infinite where `output` holds NaN.
    """
    if truth.dtype == np.uint8:
        return float((output != truth).mean())
    error = np.linalg.norm(output.astype(np.float64) - truth) / np.linalg.norm(truth)
    return math.inf if math.isnan(error) else float(error)
