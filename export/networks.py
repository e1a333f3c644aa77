"""MONAI's MAISI networks: build, load strictly, and make ready for export."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from monai.networks.blocks import CrossAttentionBlock, SABlock, UpSample
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock
from torch import nn

from export import checkpoints
from export.variant import Variant

_MAISI = "monai.apps.generation.maisi.networks"
_CLASSES = {
    "autoencoder": (f"{_MAISI}.autoencoderkl_maisi", "AutoencoderKlMaisi"),
    "diffusion_unet": (f"{_MAISI}.diffusion_model_unet_maisi", "DiffusionModelUNetMaisi"),
    "controlnet": (f"{_MAISI}.controlnet_maisi", "ControlNetMaisi"),
    "mask_autoencoder": (f"{_MAISI}.autoencoderkl_maisi", "AutoencoderKlMaisi"),
    "mask_diffusion": ("monai.networks.nets.diffusion_model_unet", "DiffusionModelUNet"),
}
# How to compute, not what: parameters and results are the same. Flash attention needs a GPU,
# float16 norms need autocast, checkpointing is for training, and cutting a volume into slabs fails
# on sizes that the number of slabs does not divide.
_OVERRIDES: dict[str, Any] = {
    "use_flash_attention": False,
    "norm_float16": False,
    "use_checkpointing": False,
    "num_splits": 1,
}


@dataclass(frozen=True)
class Networks:
    """The loaded networks of a variant, in eval mode on the CPU in float32; None: it has none.

    `scale_factor` is what latents were multiplied by in training, `mask_scale_factor` the mask
    generator's; `digests`: role -> sha256.
    """

    autoencoder: Any
    diffusion_unet: Any
    scale_factor: float
    digests: dict[str, str]
    controlnet: Any = None
    mask_autoencoder: Any = None
    mask_diffusion: Any = None
    mask_scale_factor: float | None = None


def build(variant: Variant, role: str) -> Any:
    """Return the variant's network for `role` (see `variant.ROLES`) with fresh weights.

    It is the MONAI class itself, told to compute plainly; typed Any because MONAI's attributes
    are not typed.
    """
    module, name = _CLASSES[role]
    network_class = getattr(importlib.import_module(module), name)
    taken = inspect.signature(network_class).parameters
    plainly = {key: value for key, value in _OVERRIDES.items() if key in taken}
    return network_class(**{**variant.networks[role], **plainly})


def load(variant: Variant, folder: Path) -> Networks:
    """Build the networks and load their checkpoints below `folder`, every parameter accounted for.

    Raises FileNotFoundError for a missing file and ValueError for one that does not fit.
    """
    paths = {role: folder / variant.checkpoints[role] for role in variant.networks}
    files = {role: checkpoints.read(path, role) for role, path in paths.items()}
    networks = {}
    for role, file in files.items():
        where = f"checkpoint: {paths[role]}"
        network = build(variant, role)
        # As upstream: what a ControlNet was not trained in, it has from its UNet.
        fallback = files["diffusion_unet"].state if role == "controlnet" else None
        if unused := checkpoints.fit(network, file.state, where, fallback):
            raise ValueError(
                f"{where} has {len(unused)} parameters more than the network of this variant, "
                f"{unused[0]} for one"
            )
        networks[role] = network.float().eval().requires_grad_(False)

    def scale(role: str) -> float:
        found = files[role].scale_factor
        if found is None:
            raise ValueError(f"checkpoint: {paths[role]} does not tell its scale_factor")
        return found

    return Networks(
        **networks,
        scale_factor=scale("diffusion_unet"),
        mask_scale_factor=scale("mask_diffusion") if "mask_diffusion" in files else None,
        digests={role: file.digest for role, file in files.items()},
    )


class MomentsGroupNorm(nn.Module):
    """GroupNorm that stays accurate at any size, of [N, C, X, Y, Z], in float32 whatever it takes.

    Runtimes that sum a whole group in one float32 lose digits as volumes grow. Here the means are
    taken one axis at a time and the normalisation is one scale and one shift a channel. Squares in
    float16 would overflow from 256 on.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        """Take over the parameters of `norm`, which MAISI's own GroupNorm also is."""
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise `x` [N, C, X, Y, Z]; the result has its type."""
        dtype, x = x.dtype, x.float()
        mean = self._group_mean(_mean(x))
        variance = self._group_mean(_mean((x - mean).square()))
        scale = self.weight[:, None, None, None] * torch.rsqrt(variance + self.eps)
        return (x * scale + (self.bias[:, None, None, None] - mean * scale)).to(dtype)

    def _group_mean(self, channels: torch.Tensor) -> torch.Tensor:
        """Average [N, C, 1, 1, 1] within groups and hand the result to each channel again."""
        count = channels.shape[1]
        groups = channels.reshape(-1, self.groups, count // self.groups)
        mean = groups.mean(2, keepdim=True).expand(-1, -1, count // self.groups)
        return mean.reshape(-1, count, 1, 1, 1)


def _mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean(4, keepdim=True).mean(3, keepdim=True).mean(2, keepdim=True)


class Attention(nn.Module):
    """MONAI's attention, of self or of a context, with the softmax in float32 whatever it takes.

    Queries and keys are scaled before they are multiplied: logits stay small, and it is the
    form that TensorRT fuses.
    """

    def __init__(self, block: Any) -> None:
        """Take over the projections of `block`, an SABlock or a CrossAttentionBlock."""
        super().__init__()
        self.to_q, self.to_k, self.to_v = block.to_q, block.to_k, block.to_v
        self.out_proj = block.out_proj
        self.heads, self.scale = block.num_heads, block.scale**0.5

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """Attend from `x` [B, N, C] to `context` [B, M, D], or to itself; give [B, N, C]."""
        source = x if context is None else context
        query = self._split(self.to_q(x)) * self.scale
        key = self._split(self.to_k(source)) * self.scale
        value = self._split(self.to_v(source))
        weights = (query @ key.transpose(2, 3)).float().softmax(3).to(value.dtype)
        attended: torch.Tensor = self.out_proj((weights @ value).transpose(1, 2).flatten(2))
        return attended

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """Turn [B, N, H * d] into [B, H, N, d]."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Doubled(nn.Module):
    """Nearest-neighbour upsampling and a convolution of 3 x 3 x 3, as one transposed convolution.

    Each output voxel sees the 3 x 3 x 3 voxels around it in the doubled volume, which hold at most
    2 x 2 x 2 different values: their weights can be added up beforehand, and 8 products remain of
    27. That is a transposed convolution of 4 x 4 x 4 with stride 2.
    """

    def __init__(self, conv: nn.Conv3d) -> None:
        """Take over the parameters of `conv`."""
        super().__init__()
        # Row m: which of the three taps fall on tap m of the four.
        taps = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float64)
        weight = torch.einsum("oixyz,ax,by,cz->ioabc", conv.weight.double(), taps, taps, taps)
        self.conv = nn.ConvTranspose3d(conv.in_channels, conv.out_channels, 4, 2, 1)
        self.conv.weight = nn.Parameter(weight.float(), requires_grad=False)
        assert conv.bias is not None
        self.conv.bias = conv.bias

    def forward(self, x: torch.Tensor, emb: torch.Tensor | None = None) -> torch.Tensor:
        """Turn [N, C, X, Y, Z] into [N, C, 2X, 2Y, 2Z]; `emb` is MONAI's, and unused."""
        doubled: torch.Tensor = self.conv(x)
        return doubled


class DoublingBlock(nn.Module):
    """MONAI's residual block that doubles its grid, with `Doubled` for its first convolution."""

    def __init__(self, block: DiffusionUNetResnetBlock) -> None:
        """Take over the layers of `block`."""
        super().__init__()
        self.block = block
        self.doubled = Doubled(block.conv1.conv)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        """Turn [N, C, X, Y, Z] and an embedding [N, E] into [N, C', 2X, 2Y, 2Z]."""
        block = self.block
        h = self.doubled(block.nonlinearity(block.norm1(x)))
        h = h + block.time_emb_proj(block.nonlinearity(emb))[:, :, None, None, None]
        h = block.conv2(block.nonlinearity(block.norm2(h)))
        added: torch.Tensor = block.skip_connection(block.upsample(x)) + h
        return added


def prepare(network: nn.Module, doubled: bool = False) -> nn.Module:
    """Swap, in place, the modules that export badly for ones that compute the same.

    GroupNorm and MAISI's GroupNorm become `MomentsGroupNorm`, MONAI's attention `Attention`; with
    `doubled`, upsampling and the convolution behind it become `Doubled`.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.GroupNorm):
            setattr(network, name, MomentsGroupNorm(child))
        elif isinstance(child, SABlock | CrossAttentionBlock):
            setattr(network, name, Attention(child))
        elif doubled and _doubles(child):
            setattr(network, name, Doubled(child.postconv.conv))
        elif doubled and isinstance(child, DiffusionUNetResnetBlock) and _repeats(child.upsample):
            setattr(network, name, DoublingBlock(child))
            prepare(child)
        else:
            prepare(child, doubled)
    return network


def _doubles(module: nn.Module) -> TypeGuard[Any]:
    """Tell whether it repeats every voxel and then convolves, as without `resblock_updown`."""
    return _repeats(module) and hasattr(module, "postconv")


def _repeats(module: nn.Module | None) -> bool:
    return isinstance(module, UpSample) and any(
        layer.mode == "nearest" and layer.scale_factor == (2.0, 2.0, 2.0)
        for layer in module.children()
        if isinstance(layer, nn.Upsample)
    )
