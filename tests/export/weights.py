"""A checkpoint of random weights, so that tests need no trained one."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from export import networks
from export.variant import ROLES, Variant


def random_checkpoint(variant: Variant, folder: Path, seed: int = 0) -> Path:
    """Write float16 checkpoints of `variant` below `folder`, as training would, and return it.

    What MONAI starts at zero (the ControlNet's outputs above all) gets weights as well, else no
    test could see it; the decoder's bias lifts the image to the middle of its range.
    """
    torch.manual_seed(seed)
    for role in ROLES:
        network = networks.build(variant, role)
        for parameter in network.parameters():
            if parameter.dim() > 1 and not parameter.detach().any():
                torch.nn.init.normal_(parameter, std=0.5 / parameter[0].numel() ** 0.5)
            if parameter.dim() == 1:
                parameter.data += 0.05 * torch.randn_like(parameter)
        state = {key: value.half().contiguous() for key, value in network.state_dict().items()}
        if role == "autoencoder":
            last = max(key for key in state if key.startswith("decoder.blocks") and "bias" in key)
            state[last] += 0.5
        path = folder / variant.checkpoints[role]
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"scale_factor": "0.9"} if role == "diffusion_unet" else None
        save_file(state, path, metadata)
    return folder
