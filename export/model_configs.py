"""Triton's configurations (config.pbtxt) of a variant's models."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from export.variant import Variant

# Name of a tensor -> its type and shape for Triton; -1 is any size. The backend checks ranges.
Shapes = dict[str, tuple[str, tuple[int, ...]]]

_VOLUME = (-1, -1, -1)
REQUEST: Shapes = {
    "mask": ("UINT8", _VOLUME),
    "source": ("FP32", _VOLUME),
    "strength": ("FP32", (1,)),
    "preset": ("STRING", (1,)),
    "size": ("INT32", (3,)),
    "spacing": ("FP32", (3,)),
    "vocabulary": ("STRING", (1,)),
    "anatomy": ("STRING", (1,)),
    "organs": ("STRING", (1,)),
    "augment": ("BOOL", (1,)),
    "modality": ("STRING", (1,)),
    "top_region": ("STRING", (1,)),
    "bottom_region": ("STRING", (1,)),
    "seed": ("INT64", (1,)),
    "steps": ("INT32", (1,)),
    "guidance": ("FP32", (1,)),
    "guidance_interval": ("FP32", (2,)),
    "solver": ("STRING", (1,)),
}
# Inputs of the stream only: they need loops or branches, which an ensemble lacks.
STREAM: Shapes = {
    "redraws": ("INT32", (1,)),
    "mask_only": ("BOOL", (1,)),
    "check": ("BOOL", (1,)),
}
# The UTF-8 bytes of a text. No output is a STRING: for a request of its classes (`classification`
# of KServe v2), Triton 2.51 divides by the size of an element, 0, and crashes with SIGFPE.
_TEXT = ("UINT8", (-1,))
ANSWER: Shapes = {"image": ("INT16", _VOLUME), "report": _TEXT}
MASK_ANSWER: Shapes = {"used_mask": ("UINT8", _VOLUME)}
PROGRESS: Shapes = {"stage": _TEXT, "progress": ("FP32", (1,))}
_PLAN: Shapes = {"plan": _TEXT}
# Target -> the backend of its engines, and the model file. Only the stages call engines.
_TARGETS = {
    "onnx": ("onnxruntime", "model.onnx"),
    "tensorrt": ("tensorrt_rtx", "model.plan"),
    "tensorrt-rtx": ("tensorrt_rtx", "model.plan"),
}
TARGETS = tuple(_TARGETS)


def configs(
    variant: Variant, digests: Mapping[str, str], target: str, precision: str
) -> dict[str, pb.ModelConfig]:
    """Return name -> configuration of every model of `variant`, the ensemble included.

    `digests`: role -> sha256 of its checkpoint; `target` is one of `TARGETS`; `precision`, fp32 or
    fp16, determines the types of the tensors between the models.
    """
    name, parts = variant.name, _parts(variant, precision)
    latent, labels, embedding = parts["latent"], parts["labels"], parts["embedding"]
    rows, image = parts["rows"], parts["image"]
    noise: Shapes = {"noise": latent["latent"]}
    unsupported = _unsupported(variant)
    request: Shapes = {key: REQUEST[key] for key in REQUEST if key not in unsupported}
    request |= latent
    update: Shapes = {
        **latent,
        "z": latent["latent"],
        "coefficients": ("FP32", (3,)),
        "timestep": ("FP32", (1,)),
    }
    flow: Shapes = {**update, "guidance": ("FP32", (1,)), **rows}
    updated: Shapes = {"next_latent": latent["latent"], "velocity": latent["latent"]}
    sampled: Shapes = {**latent, "sampled": _TEXT}
    parameter = json.dumps({**variant.parameter(dict(digests)), "conditions": [*labels, *rows]})

    def network(short: str, inputs: Shapes, outputs: Shapes) -> pb.ModelConfig:
        # A request that prepares a later one has no inputs, see backends/engines/guard.py.
        config = _config(f"{name}.{short}", inputs, outputs, optional=True)
        config.parameters["network"].string_value = json.dumps(contract(variant, short, inputs))
        config.instance_group.add(count=1)  # the server sets its device at start
        return config

    def engine(short: str, inputs: Shapes, outputs: Shapes) -> pb.ModelConfig:
        config = network(short, inputs, outputs)
        config.backend, config.default_model_filename = _TARGETS[target]
        _allow_gpu_inputs(config)
        return config

    def chain(short: str, inputs: Shapes, outputs: Shapes) -> pb.ModelConfig:
        config = network(short, inputs, outputs)
        config.backend, config.default_model_filename = "slabs", "chain.json"
        return config

    def stage(role: str, inputs: Shapes, outputs: Shapes) -> pb.ModelConfig:
        config = _config(
            f"{name}.{role}", inputs, outputs, optional=role in ("condition", "stream")
        )
        config.backend = "maisi"
        # It computes in numpy; by default Triton starts one instance per GPU of the machine.
        config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_CPU)
        config.parameters["role"].string_value = role
        config.parameters["variant"].string_value = parameter
        if role != "stream":  # the stream has its own queue
            _queue(variant, config)
        return config

    answer = {**ANSWER, **(MASK_ANSWER if labels else {})}
    stream_inputs = {key: STREAM[key] for key in STREAM if key not in unsupported}
    stream = stage("stream", {**request, **stream_inputs}, {**PROGRESS, **answer})
    stream.model_transaction_policy.decoupled = True
    steps = [
        stage("condition", request, {**labels, **noise, **_PLAN}),
        stage("sampler", {**noise, **labels, **_PLAN}, sampled),
        stage("decoder", {**sampled, **labels, **_PLAN}, answer),
    ]
    ensemble = _ensemble(name, request, answer, steps)
    ensemble.parameters["variant"].string_value = parameter
    models = [ensemble, stream, *steps, engine("flow", flow, updated)]
    if labels:
        models.append(engine("flow_masked", {**flow, **embedding}, updated))
        models.append(chain("mask_encoder", labels, embedding))
    decoder = chain("vae_decoder", latent, {"image": ("INT16", image["image"][1])})
    decoder.parameters["grey_levels"].string_value = json.dumps(variant.serving["intensity"])
    models += [decoder, chain("vae_encoder", image, latent)]
    if "mask_diffusion" in variant.networks:
        models.append(engine("mask_flow", {**update, **parts["sizes"]}, updated))
        models.append(chain("mask_decoder", latent, parts["mask"]))
    return {model.name: model for model in models}


def contract(variant: Variant, network: str, inputs: Iterable[str]) -> dict[str, Any]:
    """Return the limits that `backends/engines/guard.py` checks a network's inputs against."""
    serving, factor = variant.serving, variant.serving["latent"]["factor"]
    factors = {"latent": factor, "z": factor, "embedding": factor, "labels": 1, "image": 1}
    classes = variant.networks["diffusion_unet"].get("num_class_embeds")
    # The mask networks generate at the one size that they were trained for.
    generates_mask = network in ("mask_flow", "mask_decoder")
    size = serving["mask_generation"]["size"] if generates_mask else None
    schedule = (serving["mask_generation"] if generates_mask else serving)["schedule"]
    ranges = {
        "timestep": [0, schedule["train_timesteps"]],
        **({} if classes is None else {"class_labels": [0, classes - 1]}),
    }
    multiple = serving["size"]["multiple"]
    padded = [-(-side // multiple) * multiple for side in serving["size"]["max"]]
    return {
        "factors": {name: factors[name] for name in inputs if name in factors},
        "multiple": multiple,
        "max": padded if size is None else size,
        "max_voxels": serving["size"]["max_voxels"] if size is None else math.prod(size),
        **({} if size is None else {"size": size}),
        "ranges": {name: ranges[name] for name in inputs if name in ranges},
    }


def _queue(variant: Variant, config: pb.ModelConfig) -> None:
    """Set the length of a stage's queue to the variant's limit of waiting requests.

    Networks have no such limit: with it, Triton can take 0.5 s until it begins a call that follows
    the last one at once, as those of a sampler do (docs/explanation/architecture.md, Queues).
    """
    queue = config.dynamic_batching.default_queue_policy
    queue.max_queue_size = variant.serving["limits"]["waiting"][1]


def _parts(variant: Variant, precision: str) -> dict[str, Shapes]:
    """Return group -> the tensors between a variant's models; empty where it has none."""
    channels = variant.serving["latent"]["channels"]
    unet, controlnet = variant.networks["diffusion_unet"], variant.networks.get("controlnet")
    rows: dict[str, tuple[int, ...]] = {"spacing_mm100": (-1, 3)}
    if unet.get("num_class_embeds") is not None:
        rows = {"class_labels": (-1,), **rows}
    for region in ("top_region_index", "bottom_region_index"):
        if unet.get(f"include_{region}_input"):
            rows[region] = (-1, 4)
    groups: dict[str, dict[str, tuple[int, ...]]] = {
        "latent": {"latent": (1, channels, *_VOLUME)},
        "image": {"image": (1, 1, *_VOLUME)},
        "rows": rows,
        "labels": {},
        "embedding": {},
        "sizes": {},
        "mask": {},
    }
    if controlnet is not None:
        groups["labels"] = {"labels": (-1, *_VOLUME)}
        groups["embedding"] = {"embedding": (-1, controlnet["num_channels"][0], *_VOLUME)}
    if "mask_diffusion" in variant.networks:
        width = variant.networks["mask_diffusion"]["cross_attention_dim"]
        groups |= {"sizes": {"anatomy_sizes": (1, width)}, "mask": {"labels": (1, *_VOLUME)}}
    return {
        group: {key: (variant.tensor_type(key, precision), dims) for key, dims in tensors.items()}
        for group, tensors in groups.items()
    }


def _unsupported(variant: Variant) -> set[str]:
    """Return the inputs of a request that `variant` does not accept."""
    needs = {
        "controlnet": ("mask", "vocabulary", "organs", "augment", "mask_only", "redraws"),
        "mask_diffusion": ("anatomy",),
    }
    names = {
        name for role, inputs in needs.items() if role not in variant.networks for name in inputs
    }
    if "vocabularies" not in variant.serving:
        names.add("vocabulary")
    return names if "regions" in variant.serving else names | {"top_region", "bottom_region"}


def _ensemble(
    name: str, request: Shapes, answer: Shapes, steps: Sequence[pb.ModelConfig]
) -> pb.ModelConfig:
    ensemble = _config(name, request, answer, optional=True)
    ensemble.platform = "ensemble"
    for model in steps:
        step = ensemble.ensemble_scheduling.step.add(model_name=model.name, model_version=-1)
        # The sampler's latent differs from the noise that a request may hold under that name.
        renamed = {} if model.name.endswith(".condition") else {"latent": "sampled_latent"}
        for tensor in model.input:
            step.input_map[tensor.name] = renamed.get(tensor.name, tensor.name)
        for tensor in model.output:
            step.output_map[tensor.name] = renamed.get(tensor.name, tensor.name)
    return ensemble


def _config(name: str, inputs: Shapes, outputs: Shapes, optional: bool = False) -> pb.ModelConfig:
    config = pb.ModelConfig(name=name)
    for tensor, (kind, dims) in inputs.items():
        config.input.add(name=tensor, data_type=_type(kind), dims=dims, optional=optional)
    for tensor, (kind, dims) in outputs.items():
        config.output.add(name=tensor, data_type=_type(kind), dims=dims)
    return config


def _allow_gpu_inputs(config: pb.ModelConfig) -> None:
    """Let a Python model take inputs that are on the GPU without a copy to host memory."""
    config.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value = "no"


def _type(kind: str) -> Any:
    return pb.DataType.Value(f"TYPE_{kind}")
