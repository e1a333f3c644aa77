"""TensorRT and TensorRT-RTX plans: built from ONNX, described and run; one interface for both.

TensorRT builds for the local GPU and times kernels on it; `timing_cache` keeps the results.
TensorRT-RTX builds without a GPU for a list of compute capabilities; one plan serves them all and
is not larger for it. It leaves the choice of kernels to the GPU that runs the plan, so it times
nothing at build; for its cache at run time see backends/tensorrt_rtx.

The work is done by `tensorrt_process`, in a process of its own. A plan cannot be read without a
GPU, so a description lies beside it, for `inspect` and for the server.
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

from export.arrays import Array
from export.files import ROOT, sha256
from export.profiles import Profile
from export.tensorrt_process import NAMES

TARGETS = tuple(NAMES)


@dataclass(frozen=True)
class TensorRange:
    """An input or output of a plan: Triton's name of its type, its smallest and largest shape.

    -1 in an output's shape is a size that follows from the inputs.
    """

    type: str
    min: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class Description:
    """What a plan was built for; `sha256` is of the plan, `version` of its builder.

    `activation_bytes`: the memory that a run at the largest shapes takes beside weights, inputs and
    outputs, as the builder reports it; None where it reports none.
    """

    target: str
    version: str
    compute_capabilities: tuple[str, ...]
    sha256: str
    activation_bytes: int | None
    inputs: dict[str, TensorRange]
    outputs: dict[str, TensorRange]


def ready(target: str, compute_capabilities: Sequence[str] = ()) -> tuple[str, tuple[str, ...]]:
    """Return the version of the target and the compute capabilities that it would build for.

    Raises ValueError if the target is not installed, lacks a GPU, or does not support one of
    `compute_capabilities`.
    """
    reply = _call(
        target, action="ready", target=target, compute_capabilities=list(compute_capabilities)
    )
    return reply["version"], tuple(reply["compute_capabilities"])


def build(
    onnx_path: Path,
    plan_path: Path,
    target: str,
    profile: Profile,
    compute_capabilities: Sequence[str] = (),
    timing_cache: Path | None = None,
    innermost: Sequence[str] = (),
) -> Description:
    """Compile the ONNX file into `plan_path`, and describe it in `plan_path`.json.

    `compute_capabilities`, such as 8.9, are for TensorRT-RTX, by default that of the local GPU;
    TensorRT builds for the local GPU only. `timing_cache`: a file that TensorRT reads and extends;
    TensorRT-RTX uses none. `innermost`: inputs and outputs with channels innermost in memory, see
    `innermost_tensors`. Files of weights beside the ONNX file are read. Each of the two files
    appears whole or not at all.

    Raises FileNotFoundError without the ONNX file, and ValueError if the target is not installed or
    lacks a GPU, for a compute capability that it does not support, for an ONNX file that it does
    not parse or compile, and for a profile that does not fit.
    """
    if target not in TARGETS:
        raise ValueError(f"target: {target!r} is not one of {', '.join(TARGETS)}")
    if not onnx_path.is_file():
        raise FileNotFoundError(f"ONNX: {onnx_path} does not exist")
    plan_path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, so that the rename stays on one file system.
    with tempfile.TemporaryDirectory(prefix=f".{plan_path.name}-", dir=plan_path.parent) as folder:
        plan, text = Path(folder, "plan"), Path(folder, "description")
        reply = _call(
            str(onnx_path),
            action="build",
            target=target,
            onnx=str(onnx_path.resolve()),
            plan=str(plan.resolve()),
            profile=profile,
            compute_capabilities=list(compute_capabilities),
            timing_cache=None if timing_cache is None else str(timing_cache.resolve()),
            innermost=list(innermost),
        )
        description = Description(
            target,
            reply["version"],
            tuple(reply["compute_capabilities"]),
            sha256(plan),
            reply["activation_bytes"],
            {
                name: TensorRange(kind, *_range(tuple(shape), profile.get(name)))
                for name, (kind, shape) in reply["inputs"].items()
            },
            {
                name: TensorRange(kind, *_range(tuple(shape), None))
                for name, (kind, shape) in reply["outputs"].items()
            },
        )
        text.write_text(json.dumps(dataclasses.asdict(description), indent=1))
        os.replace(plan, plan_path)
        os.replace(text, description_path(plan_path))
    return description


def innermost_tensors(chain: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return stem -> the inputs and outputs of a subgraph with channels innermost in memory.

    `chain` is the content of `chain.json`. These are the activations between two subgraphs in
    float16 whose channels are a multiple of eight. TensorRT's kernels for convolutions take this
    layout, so nothing is copied into another one, and a slab of planes is contiguous.
    """
    ends = (chain["input"], chain["output"])

    def is_innermost(activation: str | None) -> bool:
        if activation is None or activation in ends or chain["itemsize"] != 2:
            return False
        channels: int = chain["activations"][activation]["channels"]
        return channels % 8 == 0

    names = {"x": "input", "skip": "skip", "y": "output", "shortcut": "shortcut"}
    return {
        subgraph["file"]: [name for name, key in names.items() if is_innermost(subgraph[key])]
        for subgraph in chain["subgraphs"]
    }


def _range(shape: tuple[int, ...], shapes: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (shape, shape) if shapes is None else (shapes[0], shapes[2])


def description_path(plan_path: Path) -> Path:
    """Return the path of a plan's description."""
    return plan_path.with_name(f"{plan_path.name}.json")


def inspect(plan_path: Path, target: str) -> Description:
    """Return the description of a plan from the file beside it; needs no GPU and no TensorRT.

    Raises FileNotFoundError where plan or description are missing, and ValueError when they do not
    belong together or to `target`.
    """
    path = description_path(plan_path)
    for file in (plan_path, path):
        if not file.is_file():
            raise FileNotFoundError(f"engine: {file} does not exist")
    try:
        content = json.loads(path.read_bytes())
        for side in ("inputs", "outputs"):
            content[side] = {
                name: TensorRange(tensor["type"], tuple(tensor["min"]), tuple(tensor["max"]))
                for name, tensor in content[side].items()
            }
        content["compute_capabilities"] = tuple(content["compute_capabilities"])
        description = Description(**content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"engine: {path} is damaged; build it again") from error
    if description.target != target:
        raise ValueError(f"engine: {plan_path} is for {description.target}, not for {target}")
    if sha256(plan_path) != description.sha256:
        raise ValueError(f"engine: {plan_path} is not the described plan; build it again")
    return description


def run(
    plan_path: Path, target: str, feeds: Sequence[Mapping[str, Array]]
) -> list[dict[str, Array]]:
    """Return the outputs of a plan for each of `feeds`, computed on the local GPU.

    Raises what `inspect` raises, and ValueError without a GPU that can run it.
    """
    inspect(plan_path, target)
    with tempfile.TemporaryDirectory() as folder:
        inputs = [Path(folder, f"{index}.npz") for index in range(len(feeds))]
        for path, feed in zip(inputs, feeds, strict=True):
            np.savez(path, **feed)
        outputs = [path.with_name(f"of-{path.name}") for path in inputs]
        _call(
            str(plan_path),
            action="run",
            target=target,
            plan=str(plan_path.resolve()),
            feeds=[str(path) for path in inputs],
            outputs=[str(path) for path in outputs],
        )
        results = []
        for path in outputs:
            with np.load(path) as arrays:
                results.append(dict(arrays))
    return results


def _call(subject: str, **request: Any) -> dict[str, Any]:
    """Return the reply of `tensorrt_process` to a request.

    Raises ValueError with the reply's error, or with one that names `subject` after a crash.
    """
    process = subprocess.run(
        [sys.executable, "-m", "export.tensorrt_process"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if process.returncode:
        end = f"status {process.returncode}"
        if process.returncode < 0:
            end = signal.Signals(-process.returncode).name
            end += ", perhaps because of too little memory" if end == "SIGKILL" else ""
        last_line = " ".join(process.stderr.splitlines()[-1:])
        raise ValueError(f"{subject}: {NAMES[request['target']]} ended with {end}: {last_line}")
    reply: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    if "error" in reply:
        raise ValueError(reply["error"])
    return reply
