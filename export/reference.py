"""Reference volumes and masks by MONAI's networks and schedulers, without code of the server.

They follow the upstream inference scripts, in float32 and with one decode of the whole volume.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from monai.networks.schedulers.ddpm import DDPMScheduler
from monai.networks.schedulers.rectified_flow import RFlowScheduler

from export.arrays import Array


def bits_of(labels: torch.Tensor) -> torch.Tensor:
    """Return the eight bits of integer `labels` [X, Y, Z] as float32 channels [1, 8, X, Y, Z]."""
    return torch.stack([(labels // 2**bit) % 2 for bit in range(8)])[None].float()


def volume(
    networks: Any,
    noise: Array,
    rows: dict[str, Sequence[float]],
    steps: int,
    guidance: float,
    fresh: Iterator[Array] | None,
    mask: Array | None = None,
    healthy: Array | None = None,
    device: str = "cpu",
    source: Array | None = None,
    strength: float = 1.0,
) -> Array:
    """Return the decoded volume [X', Y', Z'] in float32, about 0..1.

    `noise` [1, 4, x, y, z] float32; `rows`: the UNet's keywords except `x` and `timesteps`, one row
    each; `fresh` yields the noise of DDPM's steps; if it is None, the schedule is rectified flow;
    `mask` [X', Y', Z'] is already padded, `healthy` is the same without lesions; `source`
    [X', Y', Z'] float32 in 0..1 is encoded, and noise is added up to the first time of the schedule
    that is at most `strength`. The networks are on `device`.
    """
    latents = torch.from_numpy(noise).to(device)
    conditions = {name: row.to(device) for name, row in _conditions(rows, guidance > 0).items()}
    condition = None
    if mask is not None and healthy is not None:
        masks = [mask, healthy] if guidance > 0 else [mask]
        condition = torch.cat([bits_of(torch.from_numpy(ids.astype(np.int64))) for ids in masks])
        condition = condition.to(device)
    scheduler = _flow(latents, steps) if fresh is None else _ddpm(steps)
    times = scheduler.timesteps
    following = _following(times)
    if strength < 1:
        within = (times <= strength * 1000) & (strength > 0)
        times, following = times[within], following[within]
    with torch.no_grad():
        if source is not None:
            levels = torch.from_numpy(source)[None, None].to(device)
            encoded = networks.autoencoder.encode(levels)[0] * networks.scale_factor
            first = times[:1].to(device)
            latents = scheduler.add_noise(encoded, latents, first) if len(times) else encoded
        for time, next_time in zip(times, following, strict=True):
            x = torch.cat([latents] * len(conditions["spacing_tensor"]))
            t = torch.cat([torch.Tensor((time,))] * len(x)).to(device)
            residuals = {}
            if condition is not None:
                classes = {key: conditions[key] for key in conditions if key == "class_labels"}
                down, middle = networks.controlnet(
                    x=x, timesteps=t, controlnet_cond=condition, **classes
                )
                residuals = {
                    "down_block_additional_residuals": down,
                    "mid_block_additional_residual": middle,
                }
            out = networks.diffusion_unet(x=x, timesteps=t, **conditions, **residuals)
            if guidance > 0:
                conditional, unconditional = out.chunk(2)
                out = unconditional + guidance * (conditional - unconditional)
            if fresh is None:
                latents, _ = scheduler.step(out, time, latents, next_time)
            else:
                latents = _ddpm_step(scheduler, out, time, latents, fresh)
        decoded = networks.autoencoder.decode_stage_2_outputs(latents / networks.scale_factor)
    image: Array = decoded[0, 0].float().cpu().numpy()
    return image


def generated_labels(
    networks: Any,
    noise: Iterator[Array],
    sizes: Sequence[float],
    steps: int,
    ids: Sequence[int],
    kind: str,
) -> Array:
    """Return the labels [X', Y', Z'] uint8 that the mask networks generate from anatomy `sizes`.

    `noise` yields the first latent and then DDPM's noise of each step; `ids`: class -> label;
    `kind`: the schedule, ddpm or rflow.
    """
    latents = torch.from_numpy(next(noise))
    scheduler = _ddpm(steps) if kind == "ddpm" else _flow(latents, steps)
    times, context = scheduler.timesteps, torch.tensor(sizes)[None, None]
    with torch.no_grad():
        for time, next_time in zip(times, _following(times), strict=True):
            out = networks.mask_diffusion(latents, torch.Tensor((time,)), context=context)
            if kind == "ddpm":
                latents = _ddpm_step(scheduler, out, time, latents, noise)
            else:
                latents, _ = scheduler.step(out, time, latents, next_time)
        decoded = networks.mask_autoencoder.decode_stage_2_outputs(
            latents / networks.mask_scale_factor
        )
    mask: Array = np.array(ids, np.uint8)[decoded[0].argmax(0).numpy()]
    return mask


def _conditions(rows: dict[str, Sequence[float]], guided: bool) -> dict[str, torch.Tensor]:
    """Return tensors of one row, or of a conditional and an unconditional row."""
    tensors = {}
    for name, row in rows.items():
        if name == "class_labels":
            tensors[name] = torch.tensor([*row, 0][: 1 + guided], dtype=torch.int64)
        else:
            tensors[name] = 100 * torch.tensor([[*map(float, row)]] * (1 + guided))
    return tensors


def _flow(latents: torch.Tensor, steps: int) -> Any:
    scheduler = RFlowScheduler(
        num_train_timesteps=1000,
        use_discrete_timesteps=False,
        use_timestep_transform=True,
        sample_method="uniform",
        scale=1.4,
    )
    numel: Any = torch.prod(torch.tensor(latents.shape[-3:]))
    scheduler.set_timesteps(steps, input_img_size_numel=numel)
    return scheduler


def _following(times: torch.Tensor) -> torch.Tensor:
    """Return the time after each of `times`; after the last comes 0."""
    return torch.cat((times[1:], torch.tensor([0], dtype=times.dtype)))


def _ddpm(steps: int) -> Any:
    betas = {"beta_start": 0.0015, "beta_end": 0.0195}
    scheduler = DDPMScheduler(1000, "scaled_linear_beta", clip_sample=False, **betas)
    scheduler.set_timesteps(steps)
    return scheduler


def _ddpm_step(scheduler: Any, out: Any, time: Any, latents: Any, noise: Iterator[Array]) -> Any:
    with mock.patch("torch.randn", lambda *_, **__: torch.from_numpy(next(noise))):
        return scheduler.step(out, time, latents)[0]


def fresh_noise(seed: int, shape: tuple[int, ...]) -> Iterator[Array]:
    """Yield the noise of DDPM's steps, float32 of `shape`, as the server draws it."""
    yield from _noise(seed, shape, 1)


def mask_noise(seed: int, shape: tuple[int, ...]) -> Iterator[Array]:
    """Yield the noise of a generated mask, float32 of `shape`, as the server draws it."""
    yield from _noise(seed, shape, 3)


def _noise(seed: int, shape: tuple[int, ...], key: int) -> Iterator[Array]:
    sequence = np.random.SeedSequence(seed, spawn_key=(key,))
    generator = np.random.Generator(np.random.Philox(sequence))
    while True:
        yield generator.standard_normal(shape, np.float32)
