"""MONAI's MAISI networks: build, load strictly, and make ready for export."""

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from export.variant import Variant

_PACKAGE = "monai.apps.generation.maisi.networks"
_CLASSES = {
    "autoencoder": ("autoencoderkl_maisi", "AutoencoderKlMaisi"),
    "diffusion_unet": ("diffusion_model_unet_maisi", "DiffusionModelUNetMaisi"),
    "controlnet": ("controlnet_maisi", "ControlNetMaisi"),
}


@dataclass(frozen=True)
class Networks:
    """The loaded networks of a variant, in eval mode on the CPU in float32.

    `scale_factor` is what latents were multiplied by in training; `digests`: role -> sha256.
    """

    autoencoder: Any
    diffusion_unet: Any
    controlnet: Any
    scale_factor: float
    digests: dict[str, str]


def build(variant: Variant, role: str) -> Any:
    """Return the variant's network for `role` (see `variant.ROLES`) with fresh weights.

    It is the MONAI class itself; typed Any because MONAI's attributes are not typed.
    """
    module, name = _CLASSES[role]
    network_class = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name)
    return network_class(**variant.networks[role])


def load(variant: Variant, folder: Path) -> Networks:
    """Build the networks and load their checkpoints below `folder`, every parameter accounted for.

    Raises FileNotFoundError for a missing file and ValueError for one that does not fit.
    """
    networks, digests, scale = {}, {}, None
    for role in variant.networks:
        path = folder / variant.checkpoints[role]
        if not path.is_file():
            raise FileNotFoundError(f"checkpoint: {path} does not exist")
        network = build(variant, role)
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        try:
            network.load_state_dict(state, strict=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"checkpoint: {path} does not fit {role}: {reason}") from error
        networks[role] = network.float().eval().requires_grad_(False)
        digests[role] = hashlib.sha256(path.read_bytes()).hexdigest()
        scale = metadata.get("scale_factor", scale)
    if scale is None:
        raise ValueError(f"checkpoint: no file of {variant.name} has `scale_factor` as metadata")
    return Networks(**networks, scale_factor=float(scale), digests=digests)


class MomentsGroupNorm(nn.Module):
    """GroupNorm that stays accurate at any size, of [N, C, X, Y, Z].

    Runtimes that sum a whole group in one float32 lose digits as volumes grow. Here the means are
    taken one axis at a time and the normalisation is one scale and one shift a channel.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        """Take over the parameters of `norm`, which MAISI's own GroupNorm also is."""
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise `x` [N, C, X, Y, Z]."""
        mean = self._group_mean(_mean(x))
        variance = self._group_mean(_mean((x - mean).square()))
        scale = self.weight[:, None, None, None] * torch.rsqrt(variance + self.eps)
        return x * scale + (self.bias[:, None, None, None] - mean * scale)

    def _group_mean(self, channels: torch.Tensor) -> torch.Tensor:
        """Average [N, C, 1, 1, 1] within groups and hand the result to each channel again."""
        count = channels.shape[1]
        groups = channels.reshape(-1, self.groups, count // self.groups)
        mean = groups.mean(2, keepdim=True).expand(-1, -1, count // self.groups)
        return mean.reshape(-1, count, 1, 1, 1)


def _mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean(4, keepdim=True).mean(3, keepdim=True).mean(2, keepdim=True)


def prepare(network: nn.Module) -> nn.Module:
    """Swap, in place, the modules that export badly for ones that compute the same.

    GroupNorm and MAISI's GroupNorm become `MomentsGroupNorm`; MAISI's convolution, which cuts its
    input into slabs to save memory, becomes the convolution inside it.
    """
    split = importlib.import_module(f"{_PACKAGE}.autoencoderkl_maisi").MaisiConvolution
    for name, child in network.named_children():
        if isinstance(child, nn.GroupNorm):
            setattr(network, name, MomentsGroupNorm(child))
        elif isinstance(child, split):
            setattr(network, name, child.conv)
        else:
            prepare(child)
    return network
