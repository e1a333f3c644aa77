"""Measure the errors of float16 and bfloat16, for docs/explanation/precision.md.

ONNX Runtime on a CPU computes float16 graphs in float32 and removes the casts between their nodes.
Its errors are therefore mainly due to the rounding of weights. A GPU sums in float32 and rounds the
result of every operation. PyTorch computes in this way for the column "every operation rounded".

With --bfloat16, OpenVINO makes volumes of `mini` in float32 and in bfloat16, in this process and in
turn, after a first volume that compiles the networks.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from backends.maisi import decoder
from backends.maisi.sampler import RunModel
from bench import in_process, solvers
from bench.workload import Array
from export import graphs, half, networks, onnx_export, random_weights, variant
from export.graphs import Graph
from export.networks import Networks
from export.variant import Variant
from training.fidelity import tissue_dice

_SUMS = {
    torch.ops.aten.convolution.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.mm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.avg_pool3d.default,
}
# For each choice of `export/half.py`: which modules compute in float16 only, without that choice.
_CHOICES: dict[str, Callable[[str, nn.Module], bool]] = {
    "as built": lambda name, module: False,
    "norms in float16": lambda name, module: isinstance(module, networks.MomentsGroupNorm),
    "softmax in float16": lambda name, module: isinstance(module, networks.Attention),
    "embeddings in float16": lambda name, module: name in (*half.EMBEDDINGS, half.PROJECTION),
    "timestep in float16": lambda name, module: False,
}
_SHAPES = onnx_export.CHECKED
# Largest activation after the first convolution of a loud network; its square exceeds float16.
LOUD = 5000.0


class SumsInFloat32(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Compute sums of float16 values in float32 and round once, as a GPU does."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        is_half = func in _SUMS and args[0].dtype == torch.float16
        if is_half:
            args = tree_map(lambda a: a.float() if isinstance(a, torch.Tensor) else a, args)
        result = func(*args, **(kwargs or {}))
        return result.half() if is_half else result


class RoundEverything(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Round every float32 result to float16; values above 65504 overflow."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        return tree_map(_round, func(*args, **(kwargs or {})))


def _round(value: Any) -> Any:
    is_float = isinstance(value, torch.Tensor) and value.dtype == torch.float32
    return value.half().float() if is_float else value


class InFloat16(nn.Module):
    """A module whose every result is rounded to float16."""

    def __init__(self, module: nn.Module) -> None:
        """Wrap `module`."""
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """Run the module."""
        arguments = [value for value in (x, context) if value is not None]
        with RoundEverything():  # type: ignore[no-untyped-call]
            result: torch.Tensor = self.module(*arguments)
        return result


def rounded(
    graph: Graph, inputs: dict[str, torch.Tensor], choice: str = "as built"
) -> list[np.ndarray[Any, Any]]:
    """Return the outputs of the float16 build of `graph`, rounded as on a GPU.

    `choice`, a key of `_CHOICES`, is left out of the build.
    """
    module = onnx_export.exportable(graph.module, "fp16")
    _wrap(module, _CHOICES[choice])
    feeds = {name: value.to(graph.dtype(name, "fp16")) for name, value in inputs.items()}
    if choice == "timestep in float16":
        feeds["timestep"] = _round(feeds["timestep"])
    with SumsInFloat32():  # type: ignore[no-untyped-call]
        return onnx_export.evaluate(module, feeds)


def _wrap(module: nn.Module, is_wrapped: Callable[[str, nn.Module], bool]) -> None:
    for name, child in module.named_children():
        if is_wrapped(name, child):
            setattr(module, name, InFloat16(child))
        else:
            _wrap(child, is_wrapped)


def table(subject: Variant, loaded: Networks, folder: Path) -> Iterator[str]:
    """Yield the lines of a variant's table; write the graphs to `folder`, one at a time."""
    yield f"| {subject.name} | latent | float32 | float16 | every operation rounded |"
    yield "|---|---|---|---|---|"
    for graph in graphs.graphs(subject, loaded):
        errors_by_shape: dict[Any, list[float]] = {}
        cases = {
            shape: onnx_export.random_inputs(graph, *shape, seed)
            for seed, shape in enumerate(_SHAPES)
        }
        module = graph.module
        expected = {shape: onnx_export.evaluate(module, case) for shape, case in cases.items()}
        for precision in ("fp32", "fp16"):
            path = onnx_export.write(graph, folder / "graph", precision)
            session = onnx_export.load(path)
            for shape, case in cases.items():
                outputs = onnx_export.run(session, case)
                errors_by_shape.setdefault(shape, []).append(_worst(outputs, expected[shape]))
            del session
            shutil.rmtree(path.parent)
        for shape, case in cases.items():
            errors_by_shape[shape].append(_worst(rounded(graph, case), expected[shape]))
            errors = " | ".join(f"{error:.1e}" for error in errors_by_shape[shape])
            yield f"| {graph.name} | {'x'.join(map(str, shape[0]))} | {errors} |"


def choices(subject: Variant, loaded: Networks) -> Iterator[str]:
    """Yield the lines of the table of choices, for the largest flow of a variant.

    The errors in the last column are of a UNet with activations whose squares exceed float16.
    """
    yield f"| {subject.name}, every operation rounded | error | with activations of thousands |"
    yield "|---|---|---|"
    flow = next(g for g in reversed(graphs.graphs(subject, loaded)) if g.name.startswith("flow"))
    inputs = onnx_export.random_inputs(flow, *_SHAPES[-1])
    errors_by_choice: dict[str, list[float]] = {choice: [] for choice in _CHOICES}
    for loud in (False, True):
        if loud:
            make_loud(flow, loaded.diffusion_unet.conv_in.conv, inputs)
        expected = onnx_export.evaluate(flow.module, inputs)
        for choice, errors in errors_by_choice.items():
            errors.append(_worst(rounded(flow, inputs, choice), expected))
    for choice, errors in errors_by_choice.items():
        yield f"| {choice} | " + " | ".join(f"{error:.1e}" for error in errors) + " |"


def make_loud(graph: Graph, first: nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    """Scale `first`, a convolution of the graph's module, so that its largest output is `LOUD`."""
    peaks = []
    hook = first.register_forward_hook(lambda layer, inputs, out: peaks.append(out.abs().max()))
    onnx_export.evaluate(graph.module, inputs)
    hook.remove()
    for parameter in first.parameters():
        parameter.mul_(LOUD / peaks[0])


def bfloat16(steps: int) -> Iterator[str]:
    """Yield the lines of the table of `mini`'s volumes of `steps` steps in bfloat16."""
    yield "| mask | modality | seconds | difference | Dice |"
    yield "|---|---|---|---|---|"
    table = in_process.published("mini")
    runs = [in_process.engine("mini", bfloat16=is_bfloat16) for is_bfloat16 in (False, True)]
    for path, modality, seed in solvers.CASES:
        inputs = solvers.read(path, modality, seed)
        for run in runs:
            _volume(table, inputs, run, 1)
        seconds, images = [], []
        for run in runs:
            start = time.perf_counter()
            images.append(_volume(table, inputs, run, steps))
            seconds.append(time.perf_counter() - start)
        difference = np.abs(images[0].astype(int) - images[1])
        scores = [tissue_dice(image, inputs["mask"], modality).values() for image in images]
        fidelity = [float(np.mean(list(values))) for values in scores]
        columns = (
            Path(path).name,
            modality,
            ", ".join(f"{value:.1f}" for value in seconds),
            f"{difference.max()}, {difference.mean():.2f}",
            ", ".join(f"{value:.3f}" for value in fidelity),
        )
        yield f"| {' | '.join(columns)} |"


def _volume(table: Mapping[str, Any], inputs: dict[str, Array], run: RunModel, steps: int) -> Array:
    """Return the volume of a request in grey levels, int16 [X, Y, Z]."""
    request = in_process.prepare(table, inputs, run)
    numel = math.prod(request.plan.latent_shape(table)[2:])
    euler = solvers.SOLVERS["euler"](table["schedule"], numel, steps)
    latent = solvers.follow(euler, request, run)
    served = decoder.in_grey_levels(table, run)
    return decoder.decode(table, request.plan, latent, request.mask, served)


def _worst(outputs: list[Any], expected: list[Any]) -> float:
    return max(map(onnx_export.difference, outputs, expected))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="scripts/bench precision", description=__doc__)
    parser.add_argument("variants", nargs="*", default=["rflow-ct"], help="names [rflow-ct]")
    parser.add_argument("--checkpoints", type=Path, help="weights [random weights of full size]")
    parser.add_argument(
        "--choices", action="store_true", help="print the table of the errors without each choice"
    )
    parser.add_argument(
        "--bfloat16", action="store_true", help="print the table of mini's volumes in bfloat16"
    )
    parser.add_argument("--steps", type=int, default=30, help="steps of these volumes [30]")
    options = parser.parse_args()
    if options.bfloat16:
        for line in bfloat16(options.steps):
            print(line, flush=True)
        return
    for name in options.variants:
        subject = variant.load(name)
        with tempfile.TemporaryDirectory() as folder:
            if options.checkpoints is None:
                random_weights.write(subject, Path(folder))
            loaded = networks.load(subject, options.checkpoints or Path(folder))
            lines = (
                choices(subject, loaded)
                if options.choices
                else table(subject, loaded, Path(folder))
            )
            for line in lines:
                print(line, flush=True)


if __name__ == "__main__":
    main()
