"""Checkpoints in the layout of MONAI's bundle `maisi_ct_generative`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export import bundle, networks, random_weights
from export import variant as variants
from export.__main__ import main
from export.files import sha256
from export.variant import Variant
from tests.export.repository_of_tiny import official, read_config
from tests.export.weights import TINY

DDPM = official("tiny-ddpm")
FILES = {  # of large_files.yml in the bundle, version 0.4.5
    "trained_autoencoder_path": "autoencoder_epoch273.pt",
    "trained_diffusion_path": "input_unet3d_data-all_steps1000size512ddpm_random_current_inputx_v1"
    ".pt",
    "trained_controlnet_path": "controlnet-20datasets-e20wl100fold0bc_noi_dia_fsize_current.pt",
    "trained_mask_generation_autoencoder_path": "mask_generation_autoencoder.pt",
    "trained_mask_generation_diffusion_path": "mask_generation_diffusion_unet.pt",
}
ROLES = ("autoencoder", "diffusion_unet", "controlnet", "mask_autoencoder", "mask_diffusion")
DEFINITIONS = (
    "autoencoder_def",
    "diffusion_unet_def",
    "controlnet_def",
    "mask_generation_autoencoder_def",
    "mask_generation_diffusion_def",
)
Config = dict[str, Any]
# What NVIDIA and MONAI published: the networks, schedules and file names of the variants' bundles.
PUBLISHED = json.loads(Path(__file__).with_name("published_bundles.json").read_text())
OTHER = {"ddpm-ct": "rflow-ct", "rflow-ct": "ddpm-ct"}


def config(variant: Variant = DDPM) -> Config:
    """Return `configs/inference.json` for a variant's networks, written as the bundle does."""
    scheduler = {
        "_target_": "monai.networks.schedulers.ddpm.DDPMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.0015,
        "beta_end": 0.0195,
        "schedule": "scaled_linear_beta",
        "clip_sample": False,
    }
    table: Config = {
        "bundle_root": ".",
        "model_dir": "$@bundle_root + '/models'",
        "latent_channels": 4,
        "noise_scheduler": scheduler,
        "mask_generation_noise_scheduler": scheduler,
        **{key: f"$@model_dir + '/{file}'" for key, file in FILES.items()},
    }
    for role, key in zip(ROLES, DEFINITIONS, strict=True):
        if role in variant.networks:
            kind = networks.network_class(role)
            target = f"{kind.__module__}.{kind.__name__}"
            table[key] = {"_target_": target, **variant.networks[role]}
    unet = table["diffusion_unet_def"]
    unet["in_channels"] = "@latent_channels"
    for name in ("include_fc", "resblock_updown"):
        if not unet[name]:  # MONAI's defaults are not in the bundle
            del unet[name]
    return table


def write(folder: Path, table: Config) -> Path:
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    (folder / bundle.CONFIG).write_text(json.dumps(table))
    return folder


def test_its_weights_are_those_of_the_variant(tmp_path: Path) -> None:
    folder = write(tmp_path / "maisi_ct_generative", config())
    assert bundle.is_bundle(folder) and not bundle.is_bundle(tmp_path)
    variant = bundle.on_bundle(DDPM, folder)
    assert variant.checkpoints == {
        role: f"models/{file}" for role, file in zip(ROLES, FILES.values(), strict=True)
    }
    assert (variant.license, variant.hub) == (DDPM.license, {})
    random_weights.write(variant, folder)
    loaded = networks.load(variant, folder)
    assert loaded.scale_factor == pytest.approx(1.05) and loaded.controlnet is not None


def test_weights_under_the_bundles_licence_say_so(tmp_path: Path) -> None:
    folder = write(tmp_path, config())
    (folder / "LICENSE").write_text(
        "The Work and any derivative works thereof only may be used or\nintended for use"
        " non-commercially."
    )
    assert bundle.on_bundle(DDPM, folder).license == "NVIDIA Non-Commercial License"


def changed(key: str, value: Any, name: str = "") -> Callable[[Config], None]:
    def change(table: Config) -> None:
        if name:
            table[key] = {**table[key], name: value}
        else:
            table[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (changed("diffusion_unet_def", 128, "num_class_embeds"), "has num_class_embeds 128, and"),
        (
            changed("controlnet_def", 1, "depth"),
            "controlnet_def has 'depth', which ControlNetMaisi",
        ),
        (changed("autoencoder_def", "a.b.UNet", "_target_"), "autoencoder_def is a.b.UNet, and"),
        (changed("autoencoder_def", None), "lacks 'autoencoder_def'"),
        (changed("noise_scheduler", "x.RFlowScheduler", "_target_"), "is RFlowScheduler, and"),
        (changed("noise_scheduler", 0.02, "beta_end"), "noise_scheduler has beta_end 0.02, and"),
        (
            changed("noise_scheduler", True, "clip_sample"),
            "has clip_sample True, and tiny-ddpm",
        ),
        (changed("mask_generation_noise_scheduler", "cosine", "schedule"), "has schedule cosine"),
        (changed("trained_controlnet_path", "$open('/x')"), "'trained_controlnet_path' in configs"),
        (changed("model_dir", "$@model_dir + '/x'"), "'trained_autoencoder_path' in configs"),
    ],
)
def test_what_does_not_fit_is_named(
    change: Callable[[Config], None], sentence: str, tmp_path: Path
) -> None:
    table = config()
    change(table)
    with pytest.raises(ValueError, match=r"^bundle: ") as raised:
        bundle.on_bundle(DDPM, write(tmp_path, table))
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_the_defaults_of_a_schedule_are_compared_too(tmp_path: Path) -> None:
    table = config()
    del table["noise_scheduler"]["schedule"]
    with pytest.raises(ValueError, match=r"noise_scheduler has schedule linear_beta, and"):
        bundle.on_bundle(DDPM, write(tmp_path, table))


def published(name: str) -> Config:
    table: Config = copy.deepcopy({**PUBLISHED["both"], **PUBLISHED[name]})
    return table


@pytest.mark.parametrize(
    ("name", "unet", "controlnet"),
    [
        ("ddpm-ct", FILES["trained_diffusion_path"], FILES["trained_controlnet_path"]),
        ("rflow-ct", "diff_unet_ckpt_epoch19350.pt", "controlnet_current.pt"),
    ],
)
def test_the_published_bundle_fits_its_variant(
    name: str, unet: str, controlnet: str, tmp_path: Path
) -> None:
    folder = write(tmp_path, published(name))
    variant = bundle.on_bundle(variants.load(name), folder)
    changed_files = {"diffusion_unet": unet, "controlnet": controlnet}
    files = dict(zip(ROLES, FILES.values(), strict=True)) | changed_files
    assert variant.checkpoints == {role: f"models/{file}" for role, file in files.items()}
    with pytest.raises(ValueError, match=rf"noise_scheduler is \w+, and {OTHER[name]} has"):
        bundle.on_bundle(variants.load(OTHER[name]), folder)


@pytest.mark.parametrize("key", DEFINITIONS)
@pytest.mark.parametrize("name", OTHER)
def test_a_published_bundle_with_another_number_of_channels_is_refused(
    name: str, key: str, tmp_path: Path
) -> None:
    table = published(name)
    argument = "channels" if "channels" in table[key] else "num_channels"
    channels = table[key][argument]
    other = table[key][argument] = [*channels[:-1], 2 * channels[-1]]
    sentence = f"bundle: {key} has {argument} {other}, and {name} has {channels}"
    with pytest.raises(ValueError) as raised:
        bundle.on_bundle(variants.load(name), write(tmp_path, table))
    assert str(raised.value) == sentence


def test_the_command_builds_models_from_the_weights_of_a_bundle(tmp_path: Path) -> None:
    variant = official("tiny-brain")  # two networks, which take the least time
    flow = {"noise_scheduler": published("rflow-ct")["noise_scheduler"]}
    folder = write(tmp_path / "bundle", config(variant) | flow)
    random_weights.write(bundle.on_bundle(variant, folder), folder)
    places = [f"--{name}={tmp_path / name}" for name in ("repository", "cache")]
    words = ["build", str(TINY / "tiny-brain.toml"), f"--checkpoints={folder}", *places]
    assert main(words) == 0
    models = tmp_path / "repository"
    served = json.loads(read_config(models / "tiny-brain").parameters["variant"].string_value)
    assert served["weights"] == {
        role: sha256(folder / "models" / file)
        for role, file in zip(ROLES[:2], FILES.values(), strict=False)
    }
    assert (models / "tiny-brain.flow" / "1" / "model.onnx").is_file()


RFLOW = {"num_train_timesteps": 1000, "use_discrete_timesteps": False}


@pytest.mark.parametrize(
    ("scheduler", "sentence"),
    [
        ({**RFLOW, "use_timestep_transform": True, "scale": 1.2}, "autoencoder_def"),
        (RFLOW, "has use_timestep_transform False, and rflow-ct has True"),
        ({**RFLOW, "base_img_size_numel": 8}, "has base_img_size_numel 8, and"),
    ],
)
def test_a_rectified_flow(scheduler: Config, sentence: str, tmp_path: Path) -> None:
    table = config() | {"noise_scheduler": {"_target_": "x.RFlowScheduler", **scheduler}}
    del table["autoencoder_def"]  # is looked at after the schedule
    with pytest.raises(ValueError) as raised:
        bundle.on_bundle(variants.load("rflow-ct"), write(tmp_path, table))
    assert sentence in str(raised.value)


def test_a_configuration_that_is_no_json(tmp_path: Path) -> None:
    write(tmp_path, config())
    (tmp_path / bundle.CONFIG).write_text("{")
    with pytest.raises(ValueError, match=r"inference\.json cannot be read"):
        bundle.on_bundle(DDPM, tmp_path)


def test_weights_that_are_not_downloaded_are_named(tmp_path: Path) -> None:
    variant: Variant = bundle.on_bundle(DDPM, write(tmp_path, config()))
    with pytest.raises(FileNotFoundError, match=r"autoencoder_epoch273\.pt does not exist"):
        networks.load(variant, tmp_path)
