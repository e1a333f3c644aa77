"""A variant's rooms and graphs in this process, without a server."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2

from backends.maisi import conditioning
from backends.maisi.request import Plan, complete
from backends.maisi.sampler import Engine

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = ROOT / "model_repository"
Array = npt.NDArray[Any]


def published(name: str, repository: Path = REPOSITORY) -> dict[str, Any]:
    """Read what the variant's server checks requests against, out of its config.pbtxt."""
    config = model_config_pb2.ModelConfig()
    text_format.Parse((repository / name / "config.pbtxt").read_text(), config)
    table: dict[str, Any] = json.loads(config.parameters["variant"].string_value)
    return table


def engine(name: str, repository: Path = REPOSITORY) -> Engine:
    """Return what runs the variant's ONNX graphs by OpenVINO in float32, each loaded once."""
    core = openvino.Core()
    loaded: dict[str, Any] = {}

    def run(model: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        if model not in loaded:
            path = repository / f"{name}.{model}" / "1" / "model.onnx"
            exact = {"INFERENCE_PRECISION_HINT": "f32"}
            loaded[model] = core.compile_model(path, "CPU", exact).create_infer_request()
        request = loaded[model]
        request.infer({key: np.ascontiguousarray(value) for key, value in inputs.items()})
        # The request writes into the same memory when it is asked again.
        return [np.array(request.get_tensor(output).data) for output in outputs]

    return run


@dataclass(frozen=True)
class Asked:
    """One request up to its first step.

    `noise` [1, C, x, y, z]; `conditions`: what the flow is steered by; `mask` [X, Y, Z] or None.
    """

    plan: Plan
    noise: Array
    conditions: dict[str, Any]
    mask: Array | None


def ask(variant: Mapping[str, Any], inputs: Mapping[str, Array], run: Engine) -> Asked:
    """Walk a request (the tensors of the public contract) to the door of the sampler."""
    plan, mask = complete(variant, inputs), inputs.get("mask")
    conditions: dict[str, Any] = conditioning.tensors(variant, plan, mask)
    labels = conditions.pop("labels", None)
    if plan.masked:
        (conditions["embedding"],) = run("mask_encoder", {"labels": labels}, ["embedding"])
    return Asked(plan, conditioning.noise(variant, plan, None), conditions, mask)
