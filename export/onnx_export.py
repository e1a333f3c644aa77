"""PyTorch graphs to ONNX, and the proof that both compute the same."""

import math
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.export import Dim

from export.graphs import Graph

OPSET = 20
# Largest difference allowed between ONNX Runtime and PyTorch, relative to the output's own norm.
TOLERANCE = 1e-5
# Sizes of the dynamic axes: what graphs are traced with, and others that they are checked with.
_TRACED = {"rows": 2, "x": 2, "y": 3, "z": 4}
_CHECKED = (
    {"rows": 1, "x": 3, "y": 2, "z": 5},
    {"rows": 2, "x": 5, "y": 4, "z": 3},
    {"rows": 1, "x": 1, "y": 1, "z": 1},
)


def to_onnx(graph: Graph) -> onnx.ModelProto:
    """Export `graph` with its dynamic axes; weights that float16 holds exactly are stored so."""
    axes = {axis: Dim(axis, min=1) for axis in _TRACED}

    def dynamic(shape: tuple[int | str, ...]) -> dict[int, Any]:
        found = {}
        for index, size in enumerate(shape):
            if isinstance(size, str):
                factor, axis = _parse(size)
                found[index] = axes[axis] if factor == 1 else factor * axes[axis]
        return found

    program = torch.onnx.export(
        graph.module.eval(),
        kwargs=example(graph, _TRACED),
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
        dynamic_shapes={name: dynamic(shape) for name, shape in graph.inputs.items()},
        dynamo=True,
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # where in which source file it came from
    halve(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _parse(size: str) -> tuple[int, str]:
    factor, _, axis = size.rpartition("*")
    return int(factor or 1), axis


def resolve(shape: tuple[int | str, ...], axes: dict[str, int]) -> tuple[int, ...]:
    """Return `shape` with the dynamic axes at the sizes `axes` gives."""

    def value(size: int | str) -> int:
        if isinstance(size, int):
            return size
        factor, axis = _parse(size)
        return factor * axes[axis]

    return tuple(value(size) for size in shape)


def example(graph: Graph, axes: dict[str, int], seed: int = 0) -> dict[str, torch.Tensor]:
    """Return random inputs of the sizes `axes`."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {}
    for name, shape in graph.inputs.items():
        size = resolve(shape, axes)
        if name in graph.integers:
            inputs[name] = torch.randint(0, 33, size, generator=generator).to(graph.integers[name])
        else:
            inputs[name] = torch.randn(size, generator=generator)
        if name == "timestep":
            inputs[name] = 1000 * torch.rand(size, generator=generator)
        if name == "spacing_mm100":
            inputs[name] = 100 + 200 * torch.rand(size, generator=generator)
    return inputs


def halve(model: onnx.ModelProto) -> None:
    """Store in float16, with a cast back, every weight that loses nothing by it.

    Checkpoints are float16, so this halves the files; runtimes fold the casts at load.
    """
    kept, casts = [], []
    for weight in model.graph.initializer:
        array = numpy_helper.to_array(weight)
        if weight.data_type == TensorProto.FLOAT and array.size > 64:
            with np.errstate(over="ignore"):
                half = array.astype(np.float16)
            if np.array_equal(half.astype(np.float32), array):
                name = f"{weight.name}_fp16"
                kept.append(numpy_helper.from_array(half, name))
                cast = helper.make_node("Cast", [name], [weight.name], to=TensorProto.FLOAT)
                casts.append(cast)
                continue
        kept.append(numpy_helper.from_array(array, weight.name))
    nodes = [*casts, *model.graph.node]
    # What tracing noted of the casts' shapes still holds; initializers are simply replaced.
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)


def verify(graph: Graph, model: bytes) -> float:
    """Run `model` in ONNX Runtime at sizes it was not traced with; return the worst error.

    Errors are norms of differences to PyTorch relative to the norm of PyTorch's output.
    Raises ValueError when the worst one is above `TOLERANCE`.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for seed, axes in enumerate(_CHECKED):
        inputs = example(graph, axes, seed)
        with torch.no_grad():
            expected = graph.module(**inputs)
        expected = expected if isinstance(expected, tuple) else (expected,)
        given = {name: value.numpy() for name, value in inputs.items()}
        got = session.run(list(graph.outputs), given)
        for output, truth in zip(got, expected, strict=True):
            error = np.linalg.norm(output - truth.numpy()) / np.linalg.norm(truth.numpy())
            worst = max(worst, math.inf if math.isnan(error) else float(error))
    if worst > TOLERANCE:
        raise ValueError(
            f"{graph.name}: ONNX Runtime differs from PyTorch by {worst:.1e}, "
            f"more than {TOLERANCE:.0e}"
        )
    return worst
