"""A small variant with random weights, so that tests need neither a trained one nor minutes."""

import copy
import dataclasses
from pathlib import Path

import torch
from safetensors.torch import save_file

from export import networks, variant
from export.variant import Variant


def tiny() -> Variant:
    """Return a variant like mini with one UNet level and a handful of channels."""
    mini = variant.load("mini")
    changed = copy.deepcopy(mini.networks)
    changed["autoencoder"] |= {
        "num_channels": [8, 8, 8],
        "num_res_blocks": [1, 1, 1],
        "norm_num_groups": 4,
    }
    unet = {
        "num_channels": [16],
        "attention_levels": [True],
        "num_head_channels": [16],
        "num_res_blocks": 1,
        "norm_num_groups": 4,
        "resblock_updown": True,
    }
    changed["diffusion_unet"] |= unet
    changed["controlnet"] |= {**unet, "conditioning_embedding_num_channels": [8, 8, 16]}
    files = {role: f"tiny/{role}.safetensors" for role in changed}
    return dataclasses.replace(mini, name="tiny", networks=changed, checkpoints=files)


def random_checkpoint(chosen: Variant, folder: Path, seed: int = 0) -> None:
    """Write float16 checkpoints of `chosen` below `folder`, as training would.

    What MONAI starts at zero (the ControlNet's outputs above all) gets weights as well, else no
    test could see it; the decoder's last bias lifts the image to the middle of its range.
    """
    torch.manual_seed(seed)
    for role in chosen.networks:
        network = networks.build(chosen, role)
        gain = 3.0 if role == "controlnet" else 0.5  # loud enough for a mask to show
        for parameter in network.parameters():
            if parameter.dim() > 1 and not parameter.detach().any():
                torch.nn.init.normal_(parameter, std=gain / parameter[0].numel() ** 0.5)
            if parameter.dim() == 1:
                parameter.data += 0.05 * torch.randn_like(parameter)
        state = {key: value.half().contiguous() for key, value in network.state_dict().items()}
        if role == "autoencoder":
            state[[key for key in state if key.startswith("decoder.")][-1]] += 0.5
        path = folder / chosen.checkpoints[role]
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, path, {"scale_factor": "0.9"} if role == "diffusion_unet" else None)
