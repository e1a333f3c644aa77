"""TensorRT and TensorRT-RTX engines from ONNX: built, described and run, both in one way.

TensorRT builds for the GPU that is here and times kernels on it, which `timing_cache` remembers.
TensorRT-RTX builds without a GPU for the compute capabilities asked for; one plan holds them all
and is no larger for it. It leaves the choice of kernels to the GPU that runs the plan and so times
nothing: what it remembers is the runtime's cache, see backends/tensorrt_rtx.

The work itself is `compiler`'s, in a process of its own. A plan cannot be read without a GPU, so a
description lies beside it, for `inspect` and for the server.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backends.slabs import budget, chain
from export.compiler import NAMES
from export.files import sha256
from export.graphs import Graph, Shape
from export.onnx_export import axes, resolve
from export.variant import Variant

TARGETS = tuple(NAMES)
# Name of an input -> its smallest, usual and largest shape.
Profile = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
Sizes = Mapping[str, int]


# Latent planes in a slab that engines are tuned for.
_USUAL = 4
_NO_ENGINE: Any = None  # in a chain that is measured and not run


@dataclass(frozen=True)
class Tensor:
    """What crosses an engine's border: Triton's name of its type, and its shapes.

    `min` and `max` are the smallest and the largest; -1 in an output's is what inputs decide.
    """

    type: str
    min: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class Engine:
    """A plan and what it was built for; `sha256` is of the plan, `version` of its builder.

    `activation_bytes`: the memory that a run at the largest shapes takes beside weights, inputs and
    outputs, as the builder tells it; None where it does not.
    """

    target: str
    version: str
    compute_capabilities: tuple[str, ...]
    sha256: str
    activation_bytes: int | None
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def sizes(variant: Variant, graph: Graph) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Return the smallest, usual and largest sizes of the graph's axes.

    They are the variant's smallest size, its default and its largest size in voxels [X, Y, Z],
    padded as the server pads.
    """
    low, usual, high = (axes(graph, *latent) for latent in _latents(variant))
    return low, usual, high


def stage_sizes(
    variant: Variant, described: Mapping[str, Any], inputs: Mapping[str, Shape]
) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Return the smallest, usual and largest sizes of the axes of a chain's stages.

    `described` is what `chain.json` holds, `inputs` are the graph's: guidance doubles `rows`, where
    they have those. Raises ValueError where a slab of one plane is too large at the largest size.
    """
    rows = 2 if any("rows" in shape for shape in inputs.values()) else 1
    latents = _latents(variant)
    (_, y, z), _ = latents[-1]
    thickest = budget.thickest(chain.assemble(described, lambda _: _NO_ENGINE), rows, y, z)
    low, usual, high = (
        {"rows": min(guided, rows), "t": thickness, "y": y, "z": z}
        for ((_, y, z), guided), thickness in zip(
            latents, (1, min(_USUAL, thickest), thickest), strict=True
        )
    )
    return low, usual, high


def _latents(variant: Variant) -> list[tuple[tuple[int, int, int], int]]:
    size, default = variant.serving["size"], variant.serving["defaults"]
    factor = variant.serving["latent"]["factor"]
    step = variant.multiple * factor

    def padded(voxels: Sequence[int]) -> tuple[int, int, int]:
        x, y, z = (-(-value // step) * step // factor for value in voxels)
        return x, y, z

    usual = [min(pair) for pair in zip(default["size"], size["max"], strict=True)]
    guided = 2 if default["guidance"] else 1
    return [(padded(size["min"]), 1), (padded(usual), guided), (padded(size["max"]), 2)]


def profile(inputs: Mapping[str, Shape], sizes: tuple[Sizes, Sizes, Sizes]) -> Profile:
    """Return the shapes, at smallest, usual and largest `sizes`, of every input that has an axis.

    `inputs` are a graph's: name -> shape with axes such as `rows` or `8*x`.
    """
    low, usual, high = (dict(size) for size in sizes)
    return {
        name: (resolve(shape, low), resolve(shape, usual), resolve(shape, high))
        for name, shape in inputs.items()
        if any(isinstance(size, str) for size in shape)
    }


def ready(target: str, compute_capabilities: Sequence[str] = ()) -> tuple[str, tuple[str, ...]]:
    """Return the version of the target here and the compute capabilities it would build for.

    Raises ValueError as `build` does where it cannot.
    """
    told = _compiler(
        target, action="ready", target=target, compute_capabilities=list(compute_capabilities)
    )
    return told["version"], tuple(told["compute_capabilities"])


def build(
    onnx_path: Path,
    plan_path: Path,
    target: str,
    profile: Profile,
    compute_capabilities: Sequence[str] = (),
    timing_cache: Path | None = None,
) -> Engine:
    """Compile the ONNX file into `plan_path`, and describe it in `plan_path`.json.

    `compute_capabilities`, such as 8.9: what TensorRT-RTX builds for, the GPU that is here if none
    are given; TensorRT builds for that GPU alone. `timing_cache`: a file that TensorRT reads and
    adds to; TensorRT-RTX has none. Weights in files beside the ONNX file are found. Each of the
    two files appears whole or not at all.

    Raises FileNotFoundError without the ONNX file, and ValueError with one sentence where the
    target is not installed or lacks a GPU, for a compute capability it does not know, for an ONNX
    file that it does not parse or compile, and for a profile that does not fit.
    """
    if target not in TARGETS:
        raise ValueError(f"target: {target!r} is not one of {', '.join(TARGETS)}")
    if not onnx_path.is_file():
        raise FileNotFoundError(f"ONNX: {onnx_path} does not exist")
    plan_path.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that the rename stays on one file system.
    with tempfile.TemporaryDirectory(prefix=f".{plan_path.name}-", dir=plan_path.parent) as folder:
        plan, description = Path(folder, "plan"), Path(folder, "description")
        told = _compiler(
            str(onnx_path),
            action="build",
            target=target,
            onnx=str(onnx_path.resolve()),
            plan=str(plan.resolve()),
            profile=profile,
            compute_capabilities=list(compute_capabilities),
            timing_cache=None if timing_cache is None else str(timing_cache.resolve()),
        )
        engine = Engine(
            target,
            told["version"],
            tuple(told["compute_capabilities"]),
            sha256(plan),
            told["activation_bytes"],
            {
                name: Tensor(kind, *_range(tuple(shape), profile.get(name)))
                for name, (kind, shape) in told["inputs"].items()
            },
            {
                name: Tensor(kind, *_range(tuple(shape), None))
                for name, (kind, shape) in told["outputs"].items()
            },
        )
        description.write_text(json.dumps(dataclasses.asdict(engine), indent=1))
        os.replace(plan, plan_path)
        os.replace(description, described(plan_path))
    return engine


def _range(shape: tuple[int, ...], shapes: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (shape, shape) if shapes is None else (shapes[0], shapes[2])


def described(plan_path: Path) -> Path:
    """Return where a plan's description lies."""
    return plan_path.with_name(f"{plan_path.name}.json")


def inspect(plan_path: Path, target: str) -> Engine:
    """Return what a plan holds, by the description beside it; needs no GPU and no TensorRT.

    Raises FileNotFoundError where plan or description are missing, and ValueError when they do not
    belong together or to `target`.
    """
    for path in (plan_path, described(plan_path)):
        if not path.is_file():
            raise FileNotFoundError(f"engine: {path} does not exist")
    try:
        told = json.loads(described(plan_path).read_bytes())
        for side in ("inputs", "outputs"):
            told[side] = {
                name: Tensor(tensor["type"], tuple(tensor["min"]), tuple(tensor["max"]))
                for name, tensor in told[side].items()
            }
        told["compute_capabilities"] = tuple(told["compute_capabilities"])
        engine = Engine(**told)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"engine: {described(plan_path)} is damaged; build it again") from error
    if engine.target != target:
        raise ValueError(f"engine: {plan_path} is for {engine.target}, not for {target}")
    if sha256(plan_path) != engine.sha256:
        raise ValueError(f"engine: {plan_path} is not the one described; build it again")
    return engine


def run(
    plan_path: Path, target: str, feeds: Sequence[Mapping[str, npt.NDArray[Any]]]
) -> list[dict[str, npt.NDArray[Any]]]:
    """Return what a plan gives for each of `feeds`, on the GPU that is here.

    Raises what `inspect` raises, and ValueError without a GPU that can run it.
    """
    inspect(plan_path, target)
    with tempfile.TemporaryDirectory() as folder:
        given = [Path(folder, f"{index}.npz") for index in range(len(feeds))]
        for path, feed in zip(given, feeds, strict=True):
            np.savez(path, **feed)
        into = [path.with_name(f"of-{path.name}") for path in given]
        _compiler(
            str(plan_path),
            action="run",
            target=target,
            plan=str(plan_path.resolve()),
            feeds=[str(path) for path in given],
            into=[str(path) for path in into],
        )
        results = []
        for path in into:
            with np.load(path) as arrays:
                results.append(dict(arrays))
    return results


def _compiler(what: str, **job: Any) -> dict[str, Any]:
    """Have `compiler` do a job; raise its sentence, or one of its end, as ValueError."""
    done = subprocess.run(
        [sys.executable, "-m", "export.compiler"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    if done.returncode:
        end = f"status {done.returncode}"
        if done.returncode < 0:
            end = signal.Signals(-done.returncode).name
            end += ", perhaps for want of memory" if end == "SIGKILL" else ""
        said = " ".join(done.stderr.splitlines()[-1:])
        raise ValueError(f"{what}: {NAMES[job['target']]} ended with {end}: {said}")
    reply: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in reply:
        raise ValueError(reply["error"])
    return reply
