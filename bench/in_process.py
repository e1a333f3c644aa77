"""Run the stages and graphs of a variant in this process, without a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2

from backends.engines import openvino
from backends.maisi import conditioning
from backends.maisi.request import Plan, complete
from backends.maisi.sampler import RunModel
from backends.slabs.chain_runner import ChainRunner
from backends.slabs.cpu import Cpu
from bench import ROOT
from bench.workload import Array

REPOSITORY = ROOT / "model_repository"


def published(name: str, repository: Path = REPOSITORY) -> dict[str, Any]:
    """Return the limits and defaults that a variant publishes in its config.pbtxt."""
    config = model_config_pb2.ModelConfig()
    text_format.Parse((repository / name / "config.pbtxt").read_text(), config)
    table: dict[str, Any] = json.loads(config.parameters["variant"].string_value)
    return table


RunGraph = Callable[[Mapping[str, Any]], Mapping[str, Array]]


def open_graph(folder: Path, bfloat16: bool = False) -> RunGraph:
    """Return a function that runs the model in a version folder as the backends do on a CPU.

    The function takes inputs by name and returns outputs by name. The next call may overwrite the
    outputs.
    """
    if (folder / "chain.json").is_file():
        runner = ChainRunner(folder / "chain.json", Cpu(Path(gettempdir()), 0, bfloat16=bfloat16))

        def run_chain(inputs: Mapping[str, Any]) -> Mapping[str, Array]:
            (array,) = inputs.values()
            return {runner.chain.output: runner(array)}

        return run_chain
    return openvino.Engine(folder / "model.onnx", bfloat16=bfloat16)


def engine(name: str, repository: Path = REPOSITORY, bfloat16: bool = False) -> RunModel:
    """Return a function that runs the graphs of a variant; it loads each graph once."""
    loaded: dict[str, RunGraph] = {}

    def run(model: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        if model not in loaded:
            loaded[model] = open_graph(repository / f"{name}.{model}" / "1", bfloat16)
        arrays = {key: np.ascontiguousarray(value) for key, value in inputs.items()}
        results = loaded[model](arrays)
        return [np.array(results[output]) for output in outputs]

    return run


@dataclass(frozen=True)
class PreparedRequest:
    """A request before its first step.

    `noise` is float32 `[1, C, x, y, z]`, `conditions` has the conditioning inputs of the flow, and
    `mask` is uint8 `[X, Y, Z]` or None.
    """

    plan: Plan
    noise: Array
    conditions: dict[str, Any]
    mask: Array | None


def prepare(
    variant: Mapping[str, Any], inputs: Mapping[str, Array], run: RunModel
) -> PreparedRequest:
    """Return a request, whose tensors are `inputs`, in the form that the sampler takes."""
    plan, mask = complete(variant, inputs), inputs.get("mask")
    conditions: dict[str, Any] = conditioning.condition_rows(variant, plan)
    if plan.masked:
        labels = conditioning.label_rows(variant, plan, mask)
        (conditions["embedding"],) = run("mask_encoder", {"labels": labels}, ["embedding"])
    return PreparedRequest(plan, conditioning.noise(variant, plan, None), conditions, mask)
