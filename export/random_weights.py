"""Checkpoints of random numbers in the official layout, for use without trained weights."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from export import networks
from export.variant import Variant

MARK = "RANDOM_WEIGHTS.txt"
_WORDS = "The checkpoints in this folder are random numbers, written by export/random_weights.py.\n"
_SCALED = ("diffusion_unet", "mask_diffusion")


def write(
    variant: Variant, folder: Path, seed: int = 0, scale_factor: float = 1.05
) -> dict[str, Path]:
    """Write every checkpoint file of `variant` below `folder`; return role -> file.

    The networks have their full size; `.pt` files are float32 in the layout of NV-Generate-CTMR,
    `.safetensors` files float16 as training writes them. The same seed gives the same bytes.
    Raises ValueError if a file exists in a folder that has no `MARK`.
    """
    paths = {role: folder / name for role, name in variant.checkpoints.items()}
    present = next((path for path in paths.values() if path.exists()), None)
    if present and not (folder / MARK).exists():
        raise ValueError(f"checkpoint: {present} exists; random weights do not replace it")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text(_WORDS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for role, path in paths.items():
            state = _fill(networks.build(variant, role), role)
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f".{path.name}.new")
            _save(state, role, new, scale_factor, half=path.suffix == ".safetensors")
            os.replace(new, path)
    return paths


def _fill(network: nn.Module, role: str) -> dict[str, torch.Tensor]:
    """Return `network`'s parameters as MONAI initialises them, except those it sets to zero or one.

    These become random too, because an output would not depend on a layer before zero weights.
    They are mainly the last convolutions of blocks and the outputs of the ControlNet, whose scale
    is larger so that a mask has a visible effect.
    """
    gain = 3.0 if role == "controlnet" else 0.5
    for parameter in network.parameters():
        if parameter.dim() > 1 and not parameter.detach().any():
            nn.init.normal_(parameter, std=gain / math.sqrt(parameter[0].numel()))
        if parameter.dim() == 1:
            parameter.data += 0.05 * torch.randn_like(parameter)
    state = network.state_dict()
    if role == "autoencoder":  # centres the image in its range, so that nothing is clipped
        state[[key for key in state if key.startswith("decoder.")][-1]] += 0.5
    return state


def _save(
    state: dict[str, torch.Tensor], role: str, path: Path, scale_factor: float, half: bool
) -> None:
    if half:
        metadata = {"scale_factor": str(scale_factor)} if role in _SCALED else None
        save_file({key: value.half().contiguous() for key, value in state.items()}, path, metadata)
        return
    content: dict[str, Any] = state
    if role in _SCALED:
        content = {"unet_state_dict": state, "scale_factor": torch.tensor(scale_factor)}
    elif role == "controlnet":
        content = {"controlnet_state_dict": state}
    with path.open("wb") as file:  # with a path, torch.save writes its name into the file
        torch.save(content, file)
