"""The model repository's entries of a variant: config.pbtxt and files of each model."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2 as pb

from export.variant import Variant

# Shapes as Triton knows them; -1 is any size. Ranges are the backend's to check.
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
# What an ensemble, which has neither loops nor branches, cannot do.
STREAM: Shapes = {
    "redraws": ("INT32", (1,)),
    "mask_only": ("BOOL", (1,)),
    "check": ("BOOL", (1,)),
}
# The UTF-8 bytes of a text. No output is a STRING: asked for one as classes (`classification` of
# KServe v2), Triton 2.51 divides by the size of an element, 0, and ends by SIGFPE.
_TEXT = ("UINT8", (-1,))
ANSWER: Shapes = {"image": ("INT16", _VOLUME), "report": _TEXT}
MASK_ANSWER: Shapes = {"used_mask": ("UINT8", _VOLUME)}
PROGRESS: Shapes = {"stage": _TEXT, "progress": ("FP32", (1,))}
_PLAN: Shapes = {"plan": _TEXT}
# What a target's engines are for Triton: one of our backends, which take requests of our stages
# alone, and the file.
_TARGETS = {
    "onnx": ("onnxruntime", "model.onnx"),
    "tensorrt": ("tensorrt_rtx", "model.plan"),
    "tensorrt-rtx": ("tensorrt_rtx", "model.plan"),
}
TARGETS = tuple(_TARGETS)
_HEAD = "# Written by `python -m export"


def configs(
    variant: Variant, digests: Mapping[str, str], target: str, precision: str
) -> dict[str, pb.ModelConfig]:
    """Return name -> configuration of every model of `variant`, the ensemble included.

    `digests`: role -> sha256 of its checkpoint; `target` is one of `TARGETS`, `precision` fp32 or
    fp16, which decides the types of the tensors between the models.
    """
    name, parts = variant.name, _parts(variant, precision)
    latent, labels, embedding = parts["latent"], parts["labels"], parts["embedding"]
    rows, image = parts["rows"], parts["image"]
    noise: Shapes = {"noise": latent["latent"]}
    missing = _missing(variant)
    request: Shapes = {key: REQUEST[key] for key in REQUEST if key not in missing}
    request |= latent
    update: Shapes = {
        **latent,
        "z": latent["latent"],
        "coefficients": ("FP32", (3,)),
        "timestep": ("FP32", (1,)),
    }
    flow: Shapes = {**update, "guidance": ("FP32", (1,)), **rows}
    moved: Shapes = {"next_latent": latent["latent"], "velocity": latent["latent"]}
    sampled: Shapes = {**latent, "sampled": _TEXT}
    parameter = json.dumps({**variant.parameter(dict(digests)), "conditions": [*labels, *rows]})

    def network(short: str, inputs: Shapes, outputs: Shapes) -> pb.ModelConfig:
        config = _config(f"{name}.{short}", inputs, outputs)
        config.parameters["network"].string_value = json.dumps(contract(variant, short, inputs))
        config.instance_group.add(count=1)  # where: the server says at its start
        _queue(variant, config)
        return config

    def engine(short: str, inputs: Shapes, outputs: Shapes) -> pb.ModelConfig:
        config = network(short, inputs, outputs)
        config.backend, config.default_model_filename = _TARGETS[target]
        _take_as_they_are(config)
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
        # It computes in numpy; by itself Triton would have one for each GPU of the machine.
        config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_CPU)
        config.parameters["role"].string_value = role
        config.parameters["variant"].string_value = parameter
        if role != "stream":  # which queues by itself
            _queue(variant, config)
        return config

    answer = {**ANSWER, **(MASK_ANSWER if labels else {})}
    more = {key: STREAM[key] for key in STREAM if key not in missing}
    stream = stage("stream", {**request, **more}, {**PROGRESS, **answer})
    stream.model_transaction_policy.decoupled = True
    steps = [
        stage("condition", request, {**labels, **noise, **_PLAN}),
        stage("sampler", {**noise, **labels, **_PLAN}, sampled),
        stage("decoder", {**sampled, **labels, **_PLAN}, answer),
    ]
    ensemble = _ensemble(name, request, answer, steps)
    ensemble.parameters["variant"].string_value = parameter
    models = [ensemble, stream, *steps, engine("flow", flow, moved)]
    if labels:
        models.append(engine("flow_masked", {**flow, **embedding}, moved))
        models.append(chain("mask_encoder", labels, embedding))
    models += [chain("vae_decoder", latent, image), chain("vae_encoder", image, latent)]
    if "mask_diffusion" in variant.networks:
        models.append(engine("mask_flow", {**update, **parts["sizes"]}, moved))
        models.append(chain("mask_decoder", latent, parts["mask"]))
    return {model.name: model for model in models}


def contract(variant: Variant, network: str, inputs: Iterable[str]) -> dict[str, Any]:
    """Return what `backends/engines/guard.py` checks of a network's inputs."""
    serving, factor = variant.serving, variant.serving["latent"]["factor"]
    factors = {"latent": factor, "z": factor, "embedding": factor, "labels": 1, "image": 1}
    classes = variant.networks["diffusion_unet"].get("num_class_embeds")
    ranges = {
        "timestep": [0, serving["schedule"]["train_timesteps"]],
        **({} if classes is None else {"class_labels": [0, classes - 1]}),
    }
    # A mask is made at the one size that its networks were trained for.
    size = serving["mask_generation"]["size"] if network in ("mask_flow", "mask_decoder") else None
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
    """Let as many requests wait for a model as the variant's limits say."""
    queue = config.dynamic_batching.default_queue_policy
    queue.max_queue_size = variant.serving["limits"]["waiting"][1]


def _parts(variant: Variant, precision: str) -> dict[str, Shapes]:
    """Return the tensors between a variant's models in groups; a group it lacks is empty."""
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


def _missing(variant: Variant) -> set[str]:
    """Name the inputs of a request that mean nothing to `variant`."""
    has = {
        "controlnet": ("mask", "vocabulary", "organs", "augment", "mask_only", "redraws"),
        "mask_diffusion": ("anatomy",),
    }
    missing = {
        name for role, names in has.items() if role not in variant.networks for name in names
    }
    if "vocabularies" not in variant.serving:
        missing.add("vocabulary")
    return missing if "regions" in variant.serving else missing | {"top_region", "bottom_region"}


def _ensemble(
    name: str, request: Shapes, answer: Shapes, steps: Sequence[pb.ModelConfig]
) -> pb.ModelConfig:
    ensemble = _config(name, request, answer, optional=True)
    ensemble.platform = "ensemble"
    for model in steps:
        step = ensemble.ensemble_scheduling.step.add(model_name=model.name, model_version=-1)
        # The sampler's latent is another than the noise a caller may give under that name.
        known = {} if model.name.endswith(".condition") else {"latent": "sampled_latent"}
        for tensor in model.input:
            step.input_map[tensor.name] = known.get(tensor.name, tensor.name)
        for tensor in model.output:
            step.output_map[tensor.name] = known.get(tensor.name, tensor.name)
    return ensemble


def _config(name: str, inputs: Shapes, outputs: Shapes, optional: bool = False) -> pb.ModelConfig:
    config = pb.ModelConfig(name=name)
    for tensor, (kind, dims) in inputs.items():
        config.input.add(name=tensor, data_type=_type(kind), dims=dims, optional=optional)
    for tensor, (kind, dims) in outputs.items():
        config.output.add(name=tensor, data_type=_type(kind), dims=dims)
    return config


def _take_as_they_are(config: pb.ModelConfig) -> None:
    """Let a model in Python have tensors that are on a GPU, instead of copies in host memory."""
    config.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value = "no"


def _type(kind: str) -> Any:
    return pb.DataType.Value(f"TYPE_{kind}")


def write(
    repository: Path,
    variant: Variant,
    digests: Mapping[str, str],
    files: Mapping[str, Sequence[Path]],
    target: str,
    precision: str,
    version: int = 1,
) -> None:
    """Put the variant's models into `repository` as one version, each whole or not at all.

    `files`: short name of an engine -> its files, which are linked where the file system allows,
    else copied, under their own names: `model.onnx` and perhaps `model.onnx.data`, `model.plan`, or
    one `model_sm86.plan` a compute capability. What is already there of this version is replaced,
    and models that the variant no longer has are removed. Other versions stay: then every version
    has its configuration in `configs/`, and `config.pbtxt` is the newest's.
    Raises ValueError when an engine has no file, or another version has other models; `repository`
    is untouched then.
    """
    models = configs(variant, digests, target, precision)
    repository.mkdir(parents=True, exist_ok=True)
    gone = {
        path.parent
        for path in repository.glob(f"{variant.name}.*/config.pbtxt")
        if path.parent.name not in models and path.read_text().startswith(_HEAD)
    }
    present = [repository / name for name in models if (repository / name).exists()]
    if any(_versions(folder) - {version} for folder in present) and (
        gone or len(present) < len(models)
    ):
        raise ValueError(
            f"version: {version} of {variant.name} has other models than the versions that are"
            f" in {repository}; build it under another name"
        )
    # Inside the repository, so that a rename stays on one file system.
    with tempfile.TemporaryDirectory(prefix=f".{variant.name}-", dir=repository) as folder:
        new, old = Path(folder, "new"), Path(folder, "old")
        old.mkdir()
        for name, config in models.items():
            short = name.removeprefix(f"{variant.name}.")
            _stage(new / name, variant, config, files.get(short, ()), version)
            _keep(repository / name, new / name, version)
        for name in models:
            if (repository / name).exists():
                os.replace(repository / name, old / name)
            os.replace(new / name, repository / name)
        for model in gone:
            os.replace(model, old / model.name)


def _versions(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()}


def _keep(old: Path, new: Path, version: int) -> None:
    """Take the other versions of a model along, and give each its own configuration."""
    others = _versions(old) - {version} if old.exists() else set()
    if not others:
        return
    for other in others:
        shutil.copytree(old / str(other), new / str(other), copy_function=_link)
    known = new / "configs"
    known.mkdir()
    for other in others:
        text = old / "configs" / f"{other}.pbtxt"
        _pin(text if text.exists() else old / "config.pbtxt", known, other)
    _pin(new / "config.pbtxt", known, version)
    if max(others) > version:
        shutil.copyfile(old / "config.pbtxt", new / "config.pbtxt")


def _pin(text: Path, folder: Path, version: int) -> None:
    """Write a configuration that has Triton load `version` and no other."""
    head = text.read_text().partition("\n")[0]
    config = text_format.Parse(text.read_text(), pb.ModelConfig())
    config.version_policy.specific.versions[:] = [version]
    (folder / f"{version}.pbtxt").write_text(f"{head}\n{text_format.MessageToString(config)}")


def _stage(
    folder: Path, variant: Variant, config: pb.ModelConfig, files: Sequence[Path], number: int
) -> None:
    version = folder / str(number)
    version.mkdir(parents=True)
    for path in files:
        _link(path, version / path.name)
    own = any(re.fullmatch(r".*_sm\d+\.plan", path.name) for path in files)  # of one GPU each
    wanted = config.default_model_filename
    if wanted and not own and not (version / wanted).exists():
        raise ValueError(f"{config.name}: no {config.default_model_filename} was made for it")
    if not files:
        (version / ".gitkeep").touch()  # Triton asks for the folder, git keeps no empty one
    head = f"{_HEAD} build {variant.name}` from its TOML file.\n"
    (folder / "config.pbtxt").write_text(head + text_format.MessageToString(config))


def _link(source: str | Path, place: str | Path) -> None:
    try:
        os.link(Path(source).resolve(), place)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, place)
