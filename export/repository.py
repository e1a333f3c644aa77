"""The model repository's entries of a variant: config.pbtxt and model.onnx of each model."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2 as pb

from export.variant import Variant

# Shapes as Triton knows them; -1 is any size. Ranges are the backend's to check.
Shapes = dict[str, tuple[str, tuple[int, ...]]]

_GRID, _VOLUME = (-1, -1, -1), (-1, -1, -1)
REQUEST: Shapes = {
    "mask": ("UINT8", _VOLUME),
    "size": ("INT32", (3,)),
    "spacing": ("FP32", (3,)),
    "modality": ("STRING", (1,)),
    "seed": ("INT64", (1,)),
    "steps": ("INT32", (1,)),
    "guidance": ("FP32", (1,)),
    "solver": ("STRING", (1,)),
}
ANSWER: Shapes = {"image": ("INT16", _VOLUME), "report": ("STRING", (1,))}
PROGRESS: Shapes = {"stage": ("STRING", (1,)), "progress": ("FP32", (1,))}
_ROWS: Shapes = {"class_labels": ("INT64", (-1,)), "spacing_mm100": ("FP32", (-1, 3))}
_PLAN: Shapes = {"plan": ("STRING", (1,))}


def configs(variant: Variant, digests: Mapping[str, str]) -> dict[str, pb.ModelConfig]:
    """Return name -> configuration of every model of `variant`, the ensemble included."""
    name = variant.name
    channels = variant.serving["latent"]["channels"]
    width = variant.networks["controlnet"]["num_channels"][0]
    parameter = variant.parameter(dict(digests))

    latent = ("FP32", (1, channels, *_GRID))
    embedding: Shapes = {"embedding": ("FP32", (-1, width, *_GRID))}
    labels: Shapes = {"labels": ("UINT8", (-1, *_VOLUME))}
    request: Shapes = {**REQUEST, "latent": latent}
    flow: Shapes = {
        "latent": latent,
        "z": latent,
        "coefficients": ("FP32", (3,)),
        "timestep": ("FP32", (1,)),
        "guidance": ("FP32", (1,)),
        **_ROWS,
    }
    moved: Shapes = {"next_latent": latent, "velocity": latent}
    decoded: Shapes = {"image": ("FP32", (1, 1, *_VOLUME))}
    sampled: Shapes = {"latent": latent, "sampled": ("STRING", (1,))}

    def engine(short: str, inputs: Shapes, outputs: Shapes) -> pb.ModelConfig:
        config = _config(f"{name}.{short}", inputs, outputs)
        config.backend = "onnxruntime"
        config.default_model_filename = "model.onnx"
        return config

    def room(role: str, inputs: Shapes, outputs: Shapes) -> pb.ModelConfig:
        config = _config(f"{name}.{role}", inputs, outputs, optional=inputs is request)
        config.backend = "maisi"
        config.parameters["role"].string_value = role
        _publish(config, parameter)
        return config

    stream = room("stream", request, {**PROGRESS, **ANSWER})
    stream.model_transaction_policy.decoupled = True
    rooms = [
        room("condition", request, {**labels, "noise": latent, **_ROWS, **_PLAN}),
        engine("mask_encoder", labels, embedding),
        room("sampler", {"noise": latent, **embedding, **_ROWS, **_PLAN}, sampled),
        room("decoder", {**sampled, **labels, **_PLAN}, ANSWER),
    ]
    ensemble = _config(name, request, ANSWER, optional=True)
    ensemble.platform = "ensemble"
    _publish(ensemble, parameter)
    for model in rooms:
        step = ensemble.ensemble_scheduling.step.add(model_name=model.name, model_version=-1)
        # The sampler's latent is another than the noise a caller may give under that name.
        known = {} if model.name.endswith(".condition") else {"latent": "sampled_latent"}
        for tensor in model.input:
            step.input_map[tensor.name] = known.get(tensor.name, tensor.name)
        for tensor in model.output:
            step.output_map[tensor.name] = known.get(tensor.name, tensor.name)
    models = [
        ensemble,
        stream,
        *rooms,
        engine("flow", flow, moved),
        engine("flow_masked", {**flow, **embedding}, moved),
        engine("vae_decoder", {"latent": latent}, decoded),
    ]
    return {model.name: model for model in models}


def _config(name: str, inputs: Shapes, outputs: Shapes, optional: bool = False) -> pb.ModelConfig:
    config = pb.ModelConfig(name=name)
    for tensor, (kind, dims) in inputs.items():
        config.input.add(name=tensor, data_type=_type(kind), dims=dims, optional=optional)
    for tensor, (kind, dims) in outputs.items():
        config.output.add(name=tensor, data_type=_type(kind), dims=dims)
    return config


def _type(kind: str) -> Any:
    return pb.DataType.Value(f"TYPE_{kind}")


def _publish(config: pb.ModelConfig, parameter: Mapping[str, Any]) -> None:
    config.parameters["variant"].string_value = json.dumps(parameter)


def write(
    repository: Path, variant: Variant, digests: Mapping[str, str], graphs: Mapping[str, bytes]
) -> None:
    """Put the variant's models into `repository`, each whole or not at all.

    `graphs`: short name -> serialized ONNX. A model that is already there is replaced.
    """
    repository.mkdir(parents=True, exist_ok=True)
    for name, config in configs(variant, digests).items():
        if not config.platform:
            config.instance_group.add(count=1)
        # Beside its place, so that the rename stays on one file system.
        new = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=repository))
        new.chmod(0o755)
        (new / "1").mkdir()
        short = name.removeprefix(f"{variant.name}.")
        if short in graphs:
            (new / "1" / "model.onnx").write_bytes(graphs[short])
        else:
            (new / "1" / ".gitkeep").touch()  # Triton asks for the folder, git keeps no empty one
        head = f"# Written by `python -m export {variant.name}` from its TOML file.\n"
        (new / "config.pbtxt").write_text(head + text_format.MessageToString(config))
        old = repository / name
        if old.exists():
            gone = new.with_name(f"{new.name}-old")
            os.replace(old, gone)
            os.replace(new, old)
            shutil.rmtree(gone)
        else:
            os.replace(new, old)
