"""Checkpoints of MONAI bundles such as `maisi_ct_generative`, for a variant of the same networks.

The layout is that of models/maisi_ct_generative in github.com/Project-MONAI/model-zoo: weights in
`models/`, and `configs/inference.json`, which names them and defines the networks. Expressions in
that file are matched by regular expressions and never evaluated.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export import networks
from export.variant import Variant

CONFIG = Path("configs", "inference.json")
# Role -> the keys of its checkpoint and of its network's definition in CONFIG.
_KEYS = {
    "autoencoder": ("trained_autoencoder_path", "autoencoder_def"),
    "diffusion_unet": ("trained_diffusion_path", "diffusion_unet_def"),
    "controlnet": ("trained_controlnet_path", "controlnet_def"),
    "mask_autoencoder": (
        "trained_mask_generation_autoencoder_path",
        "mask_generation_autoencoder_def",
    ),
    "mask_diffusion": ("trained_mask_generation_diffusion_path", "mask_generation_diffusion_def"),
}
_SCHEDULERS = {"DDPMScheduler": "ddpm", "RFlowScheduler": "rflow"}
_CONSTANTS = {  # of a scheduler: MONAI's name -> that in a variant
    "num_train_timesteps": "train_timesteps",
    "beta_start": "beta_start",
    "beta_end": "beta_end",
    "base_img_size_numel": "base_numel",
}
# Argument of a scheduler -> the value that the server samples with, and MONAI's default.
_SAMPLING: dict[str, dict[str, tuple[Any, Any]]] = {
    "ddpm": {
        "schedule": ("scaled_linear_beta", "linear_beta"),
        "clip_sample": (False, True),
        "prediction_type": ("epsilon", "epsilon"),
        "variance_type": ("fixed_small", "fixed_small"),
    },
    "rflow": {
        "use_timestep_transform": (True, False),
        "use_discrete_timesteps": (False, True),
        "transform_scale": (1, 1),
        "steps_offset": (0, 0),
    },
}
# Arguments that change neither parameters nor results, or only how a volume is split in memory.
_IGNORED = {"_target_", "dim_split", *networks.OVERRIDES}
_REFERENCE = re.compile(r"@(\w+)")
_PATH = re.compile(r"""\$@(\w+)\s*\+\s*(['"])([^'"]*)\2""")
_NON_COMMERCIAL = "only may be used or intended for use non-commercially"


def is_bundle(folder: Path) -> bool:
    """Return whether a folder of checkpoints is a MONAI bundle."""
    return (folder / CONFIG).is_file()


def on_bundle(variant: Variant, folder: Path) -> Variant:
    """Return `variant` with the checkpoint files of the bundle in `folder`, and their licence.

    Raises ValueError where the bundle's configuration cannot be read, or its networks or noise
    schedules are not those of the variant.
    """
    config = _read(folder)
    _check_schedule(variant, config, "noise_scheduler", variant.serving["schedule"])
    if "mask_generation" in variant.serving:
        schedule = variant.serving["mask_generation"]["schedule"]
        _check_schedule(variant, config, "mask_generation_noise_scheduler", schedule)
    files = {}
    for role in variant.networks:
        path_key, network_key = _KEYS[role]
        _check_network(variant, role, _resolved(config, network_key), network_key)
        files[role] = _path(config, path_key)
    license_file = folder / "LICENSE"
    text = license_file.read_text(errors="replace") if license_file.is_file() else ""
    terms: dict[str, Any] = {}
    if _NON_COMMERCIAL in " ".join(text.split()):
        terms = {"license": "NVIDIA Non-Commercial License", "license_url": ""}
    return dataclasses.replace(variant, checkpoints=files, hub={}, **terms)


def _read(folder: Path) -> Mapping[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"bundle: {folder / CONFIG} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"bundle: {folder / CONFIG} is not a JSON object")
    return config


def _resolved(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a definition, in which values like `@latent_channels` are looked up."""
    definition = config.get(key)
    if not isinstance(definition, dict):
        raise ValueError(f"bundle: {CONFIG} lacks {key!r}, a definition with '_target_'")

    def value(text: Any) -> Any:
        match = _REFERENCE.fullmatch(text) if isinstance(text, str) else None
        return config.get(match[1]) if match else text

    return {name: value(text) for name, text in definition.items()}


def _path(config: Mapping[str, Any], key: str) -> str:
    """Return the path of a checkpoint within the bundle: `models/x.pt` of `$@model_dir + '/x.pt'`.

    `model_dir` may be such an expression too; `bundle_root` is the folder of the bundle.
    """
    text, end = config.get(key), ""
    for _ in range(len(config)):  # as many references as there are keys, at most
        match = _PATH.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            break
        name, end = match[1], match[3] + end
        if name == "bundle_root":
            return end.lstrip("/")
        text = config.get(name)
    if isinstance(text, str) and text and not text.startswith("$"):
        return text + end
    raise ValueError(
        f"bundle: {key!r} in {CONFIG} is {config.get(key)!r}, and a path such as "
        "\"$@bundle_root + '/models/x.pt'\" is expected"
    )


def _check_network(variant: Variant, role: str, definition: Mapping[str, Any], key: str) -> None:
    """Raise ValueError if a definition, MONAI's defaults included, is not the variant's network."""
    network_class = networks.network_class(role)
    target = str(definition.get("_target_"))
    if target.rpartition(".")[2] != network_class.__name__:
        raise ValueError(
            f"bundle: {key} is {target}, and {variant.name} has {network_class.__name__}"
        )
    parameters = inspect.signature(network_class).parameters
    defaults = {name: one.default for name, one in parameters.items()}
    if unknown := sorted(definition.keys() - defaults.keys() - _IGNORED):
        raise ValueError(
            f"bundle: {key} has {unknown[0]!r}, which {network_class.__name__} does not take"
        )
    ours = {**defaults, **variant.networks[role]}
    theirs = {**defaults, **definition}
    for name in sorted(defaults.keys() - _IGNORED):
        if _plain(ours[name]) != _plain(theirs[name]):
            raise ValueError(
                f"bundle: {key} has {name} {_plain(theirs[name])}, and {variant.name} has "
                f"{_plain(ours[name])}"
            )


def _check_schedule(
    variant: Variant, config: Mapping[str, Any], key: str, schedule: Mapping[str, Any]
) -> None:
    definition = _resolved(config, key)
    target = str(definition.get("_target_")).rpartition(".")[2]
    if _SCHEDULERS.get(target) != schedule["kind"]:
        raise ValueError(
            f"bundle: {key} is {target}, and {variant.name} has the schedule {schedule['kind']}"
        )
    pairs = {
        name: (schedule[own_name], definition[name])
        for name, own_name in _CONSTANTS.items()
        if name in definition and own_name in schedule
    }
    for name, (ours, default) in _SAMPLING[schedule["kind"]].items():
        pairs[name] = (ours, definition.get(name, default))
    for name, (ours, theirs) in pairs.items():
        if ours != theirs:
            raise ValueError(f"bundle: {key} has {name} {theirs}, and {variant.name} has {ours}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
