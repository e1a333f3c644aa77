"""Call the inference code of NV-Generate-CTMR from a checkout of it.

The code runs unchanged on a GPU. It does not support CPUs, so three things differ on a CPU:

- `use_flash_attention` and `norm_float16` are off in the network definitions. The first raises an
  error without a GPU. The second passes float16 to float32 convolutions, because autocast is off.
- The ControlNet and the UNet get float32 inputs where the code passes float16, because autocast is
  off. The values (bits of the mask, the spacing, noise rounded to float16) are exact in both.
- Checkpoints that were saved on a GPU are loaded to the CPU.

Variants without a ControlNet run `diff_model_infer.py`, which returns grey levels without their
fractions, where this project rounds them.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from monai.data import MetaTensor

from backends.maisi.request import complete
from bench.stage_timer import StageTimer
from bench.workload import Array, TimedVolume, Workload, round_to_int16

_PATHS = {
    "trained_autoencoder_path": "autoencoder",
    "trained_diffusion_path": "diffusion_unet",
    "trained_controlnet_path": "controlnet",
}
_CPU_OFF = ("use_flash_attention", "norm_float16")


@contextmanager
def upstream(workload: Workload) -> Iterator[tuple[Callable[[], TimedVolume], str]]:
    """Load upstream's networks; yield a function that makes a volume, and notes on adaptations.

    Upstream calls `torch.randn` once. During that call it is replaced, so that the noise is the
    noise of the workload. Raises ValueError if `workload.upstream` is not a checkout of upstream.
    """
    files = _files(workload)
    # At the end of the path, upstream shadows no module of this project. Its `scripts` is still
    # found, because a package takes precedence over our folder `scripts`.
    sys.path.append(str(Path(workload.upstream).resolve()))
    config = _config(workload, files)
    noise = torch.from_numpy(workload.noise())
    plan = complete(workload.load().parameter({}), workload.request())
    with ExitStack() as stack:
        if workload.device == "cpu":
            stack.enter_context(mock.patch("torch.load", partial(torch.load, map_location="cpu")))
        prepare = _from_mask if workload.masked else _image_only
        sample, stages, decoding = prepare(workload, config, plan)

    def make() -> Any:
        with mock.patch("torch.randn", lambda *_, device="cpu", **__: noise.to(device, copy=True)):
            return round_to_int16(sample())

    yield lambda: TimedVolume(*stages.run(make)), _notes(workload, *decoding)


Prepared = tuple[Callable[[], Array], StageTimer, tuple[Sequence[int], float]]


def _from_mask(workload: Workload, config: Any, plan: Any) -> Prepared:
    """Return a function that makes a volume from a mask, its timer, and the windows of decoding."""
    infer = importlib.import_module("scripts.infer_image_from_mask")
    helpers = importlib.import_module("scripts.utils_infer")
    device = torch.device(workload.device)
    autoencoder, unet, controlnet, scale_factor, scheduler = helpers.load_image_models(
        config, device
    )
    if workload.device == "cpu":
        for network in (unet, controlnet):
            network.register_forward_pre_hook(_in_float32, with_kwargs=True)
    labels = workload.mask()
    latent_shape = plan.latent_shape(workload.load().parameter({}))[1:]
    roi = config.autoencoder_sliding_window_infer_size
    overlap = config.autoencoder_sliding_window_infer_overlap

    def sample() -> Array:
        label = MetaTensor(torch.from_numpy(labels.astype(np.int64))[None, None]).to(device)
        spacing, top, bottom, modality = helpers.build_conditioning_tensors(
            label, plan.spacing, plan.class_label, unet.include_top_region_index_input, device
        )
        image, _ = infer.ldm_conditional_sample_one_image_from_mask(
            autoencoder=autoencoder,
            diffusion_unet=unet,
            controlnet=controlnet,
            noise_scheduler=scheduler,
            scale_factor=scale_factor,
            device=device,
            combine_label_or=label,
            spacing_tensor=spacing,
            latent_shape=latent_shape,
            output_size=tuple(labels.shape),
            noise_factor=1.0,
            top_region_index_tensor=top,
            bottom_region_index_tensor=bottom,
            modality_tensor=modality,
            num_inference_steps=workload.steps,
            autoencoder_sliding_window_infer_size=roi,
            autoencoder_sliding_window_infer_overlap=overlap,
            cfg_guidance_scale=workload.guidance,
        )
        levels: Array = image[0, 0].float().numpy()
        return levels

    return sample, StageTimer(autoencoder, controlnet, workload.device), (roi, overlap)


def _image_only(workload: Workload, config: Any, plan: Any) -> Prepared:
    """Return a function that makes a volume without a mask; see `_from_mask`."""
    infer = importlib.import_module("scripts.diff_model_infer")
    device, logger = torch.device(workload.device), logging.getLogger("upstream")
    config.model_dir, config.model_filename = os.path.split(config.trained_diffusion_path)
    config.cfg_guidance_scale = workload.guidance
    config.diffusion_unet_inference |= {
        "num_inference_steps": workload.steps,
        "spacing": list(plan.spacing),
        "modality": plan.class_label,
    }
    autoencoder, unet, scale_factor = infer.load_models(config, device, logger)
    if workload.device == "cpu":
        unet.register_forward_pre_hook(_in_float32, with_kwargs=True)
    factor = workload.load().serving["latent"]["factor"]

    @torch.inference_mode()
    def sample() -> Array:
        levels: Array = infer.run_inference(
            config,
            device,
            autoencoder,
            unet,
            scale_factor,
            *infer.prepare_tensors(config, device),
            workload.sides,
            factor,
            logger,
        )
        return levels

    return sample, StageTimer(autoencoder, None, workload.device), ([80, 80, 80], 0.4)


def _files(workload: Workload) -> list[Path]:
    """Return upstream's configuration files of paths, inference and networks.

    Raises ValueError if the folder is not a checkout of upstream.
    """
    configs = Path(workload.upstream).resolve() / "configs"
    image_only = "config_maisi_diff_model_rflow-mr-brain.json"
    config = workload.config if workload.masked else image_only
    names = ("environment_rflow-ct.json", config, "config_network_rflow.json")
    files = [configs / name for name in names]
    if missing := next((file for file in files if not file.is_file()), None):
        raise ValueError(
            f"upstream: {workload.upstream} has no configs/{missing.name}; a checkout of "
            "NV-Generate-CTMR is expected"
        )
    return files


def _config(workload: Workload, files: list[Path]) -> Any:
    """Return upstream's configuration with the workload's checkpoints and, on a CPU, changes."""
    load = importlib.import_module("scripts.diff_model_setting").load_config
    config = load(*map(str, files))
    weights = workload.load().checkpoints
    for key, role in _PATHS.items():
        if role in weights:
            setattr(config, key, str(Path(workload.checkpoints, weights[role]).resolve()))
    if workload.device == "cpu":
        for network in ("autoencoder_def", "diffusion_unet_def", "controlnet_def"):
            definition = getattr(config, network)
            definition.update({key: False for key in _CPU_OFF if key in definition})
    return config


def _in_float32(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    halves = {
        key: value.float()
        for key, value in kwargs.items()
        if isinstance(value, torch.Tensor) and value.dtype == torch.float16
    }
    return args, {**kwargs, **halves}


def _notes(workload: Workload, roi: Sequence[int], overlap: float) -> str:
    """Return the adaptations, and how upstream's `dynamic_infer` decodes a volume of this size."""
    factor = workload.load().serving["latent"]["factor"]
    latent = [side // factor for side in workload.sides]
    if math.prod(latent) <= math.prod(roi):
        size = "x".join(map(str, latent))
        decoding = f"a latent of {size} fits its window, so it decodes the whole volume at once"
    else:
        decoding = f"it decodes in windows of {list(roi)} with overlap {overlap}"
    adapted = (
        "unchanged, with autocast to float16"
        if workload.device == "cuda"
        else "in float32, without flash attention and float16 norms, and with float32 instead of "
        "its float16 inputs, because it does not run on a CPU otherwise"
    )
    source = workload.config if workload.masked else "diff_model_infer.py"
    return f"{adapted}; {decoding} ({source})"
