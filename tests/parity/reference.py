"""The same volume the long way round: MONAI's networks and scheduler, nothing of the server's.

It follows the upstream inference scripts, in float32 and with one decode of the whole volume.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.networks.schedulers.rectified_flow import RFlowScheduler

Array = npt.NDArray[Any]


def bits_of(labels: torch.Tensor) -> torch.Tensor:
    """Return the eight binary channels of `labels` [X, Y, Z] as [1, 8, X, Y, Z]."""
    return torch.stack([(labels // 2**bit) % 2 for bit in range(8)])[None].float()


def volume(
    networks: Any,
    noise: Array,
    mask: Array | None,
    class_label: int,
    spacing: tuple[float, float, float],
    steps: int,
    guidance: float,
    organs: dict[int, int],
) -> Array:
    """Return grey levels [X', Y', Z'] in float32, before rounding.

    `noise` [1, 4, x, y, z]; `mask` [X', Y', Z'] already padded; `organs`: lesion -> organ.
    """
    latents = torch.from_numpy(noise)
    label = torch.tensor([class_label])
    spaced = torch.tensor([spacing]) * 100
    if mask is not None:
        ids = torch.from_numpy(mask.astype(np.int64))
        healthy = ids.clone()
        for lesion, organ in organs.items():
            healthy[ids == lesion] = organ
        condition, unconditional = bits_of(ids), bits_of(healthy)
    scheduler = RFlowScheduler(
        num_train_timesteps=1000,
        use_discrete_timesteps=False,
        use_timestep_transform=True,
        sample_method="uniform",
        scale=1.4,
    )
    numel: Any = torch.prod(torch.tensor(latents.shape[-3:]))
    scheduler.set_timesteps(steps, input_img_size_numel=numel)
    times = scheduler.timesteps
    following = torch.cat((times[1:], torch.tensor([0], dtype=times.dtype)))
    with torch.no_grad():
        for time, after in zip(times, following, strict=True):
            x, t, classes, space = latents, torch.Tensor((time,)), label, spaced
            if guidance > 0:
                x, t, space = torch.cat([x] * 2), torch.cat([t] * 2), torch.cat([space] * 2)
                classes = torch.cat([label, torch.zeros_like(label)])
            more = {}
            if mask is not None:
                given = torch.cat([condition, unconditional]) if guidance > 0 else condition
                down, middle = networks.controlnet(
                    x=x, timesteps=t, controlnet_cond=given, class_labels=classes
                )
                more = {
                    "down_block_additional_residuals": down,
                    "mid_block_additional_residual": middle,
                }
            out = networks.diffusion_unet(
                x=x, timesteps=t, class_labels=classes, spacing_tensor=space, **more
            )
            if guidance > 0:
                with_it, without = out.chunk(2)
                out = without + guidance * (with_it - without)
            latents, _ = scheduler.step(out, time, latents, after)
        decoded = networks.autoencoder.decode_stage_2_outputs(latents / networks.scale_factor)
    grey: Array = (decoded[0, 0].clip(0, None) * 1000).numpy()
    return grey
