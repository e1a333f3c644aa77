"""MONAI's MAISI networks: build, load strictly, and prepare for export."""

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
# These change neither parameters nor results. Flash attention needs a GPU, float16 norms need
# autocast, checkpointing is for training, and MONAI's splitting of a volume fails on sizes that the
# number of splits does not divide.
OVERRIDES: dict[str, Any] = {
    "use_flash_attention": False,
    "norm_float16": False,
    "use_checkpointing": False,
    "num_splits": 1,
}


@dataclass(frozen=True)
class Networks:
    """The loaded networks of a variant, in eval mode on the CPU in float32; None: it has none.

    `scale_factor` is the factor of latents in training, `mask_scale_factor` the mask generator's;
    `digests`: role -> sha256.
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

    It is the MONAI class itself with `OVERRIDES`; typed Any because MONAI's attributes are not
    typed.
    """
    kind = network_class(role)
    parameters = inspect.signature(kind).parameters
    overrides = {key: value for key, value in OVERRIDES.items() if key in parameters}
    return kind(**{**variant.networks[role], **overrides})


def network_class(role: str) -> Any:
    """Return MONAI's class of the network for `role`."""
    module, name = _CLASSES[role]
    return getattr(importlib.import_module(module), name)


def load(variant: Variant, folder: Path) -> Networks:
    """Build the networks and load their checkpoints below `folder`, every parameter accounted for.

    Raises FileNotFoundError for a missing file and ValueError for one that does not fit.
    """
    paths = {role: folder / variant.checkpoints[role] for role in variant.networks}
    files = {role: checkpoints.read(path, role) for role, path in paths.items()}
    networks = {}
    for role, file in files.items():
        prefix = f"checkpoint: {paths[role]}"
        network = build(variant, role)
        # As upstream: parameters that a ControlNet's file lacks come from its UNet.
        fallback = files["diffusion_unet"].state if role == "controlnet" else None
        if unused := checkpoints.fit(network, file.state, prefix, fallback):
            raise ValueError(
                f"{prefix} has {len(unused)} parameters more than the network of this variant, "
                f"{unused[0]} for one"
            )
        networks[role] = network.float().eval().requires_grad_(False)

    def scale(role: str) -> float:
        factor = files[role].scale_factor
        if factor is None:
            raise ValueError(f"checkpoint: {paths[role]} does not have its scale_factor")
        return factor

    return Networks(
        **networks,
        scale_factor=scale("diffusion_unet"),
        mask_scale_factor=scale("mask_diffusion") if "mask_diffusion" in files else None,
        digests={role: file.digest for role, file in files.items()},
    )


class MomentsGroupNorm(nn.Module):
    """GroupNorm of [N, C, X, Y, Z], accurate at any size, in float32 for any input type.

    Runtimes that sum a whole group in one float32 lose digits as volumes grow. Here means are
    computed one axis at a time, and the normalisation is one scale and one shift per channel. In
    float16, squares would overflow from 256 on.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        """Share the parameters of `norm`; MAISI's own GroupNorm is a subclass."""
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise `x` [N, C, X, Y, Z]; the result has the type of `x`."""
        dtype, x = x.dtype, x.float()
        mean = self._group_mean(_mean(x))
        variance = self._group_mean(_mean((x - mean).square()))
        scale = self.weight[:, None, None, None] * torch.rsqrt(variance + self.eps)
        return (x * scale + (self.bias[:, None, None, None] - mean * scale)).to(dtype)

    def _group_mean(self, channels: torch.Tensor) -> torch.Tensor:
        """Average [N, C, 1, 1, 1] within groups; return the group's mean for each channel."""
        count = channels.shape[1]
        groups = channels.reshape(-1, self.groups, count // self.groups)
        mean = groups.mean(2, keepdim=True).expand(-1, -1, count // self.groups)
        return mean.reshape(-1, count, 1, 1, 1)


def _mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean(4, keepdim=True).mean(3, keepdim=True).mean(2, keepdim=True)


class Attention(nn.Module):
    """MONAI's attention, of self or of a context, with the softmax in float32 for any input type.

    Queries and keys are scaled before they are multiplied: logits stay small, and TensorRT fuses
    this form.
    """

    def __init__(self, block: Any) -> None:
        """Share the projections of `block`, an SABlock or a CrossAttentionBlock."""
        super().__init__()
        self.to_q, self.to_k, self.to_v = block.to_q, block.to_k, block.to_v
        self.out_proj = block.out_proj
        self.heads, self.scale = block.num_heads, block.scale**0.5

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """Attend from `x` [B, N, C] to `context` [B, M, D], or to itself; return [B, N, C]."""
        source = x if context is None else context
        query = self._split(self.to_q(x)) * self.scale
        key = self._split(self.to_k(source)) * self.scale
        value = self._split(self.to_v(source))
        weights = (query @ key.transpose(2, 3)).float().softmax(3).to(value.dtype)
        output: torch.Tensor = self.out_proj((weights @ value).transpose(1, 2).flatten(2))
        return output

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """Turn [B, N, H * d] into [B, H, N, d]."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class UpsampleConv(nn.Module):
    """Nearest-neighbour upsampling and a convolution of 3 x 3 x 3, as one transposed convolution.

    Each output voxel depends on 3 x 3 x 3 voxels of the doubled volume, which hold at most
    2 x 2 x 2 different values: their weights are summed in advance, which leaves 8 products of 27.
    That is a transposed convolution of 4 x 4 x 4 with stride 2.
    """

    def __init__(self, conv: nn.Conv3d) -> None:
        """Compute the weights from those of `conv`, and share its bias."""
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
        output: torch.Tensor = self.conv(x)
        return output


class UpsampleBlock(nn.Module):
    """MONAI's residual block that doubles its grid, with `UpsampleConv` as first convolution."""

    def __init__(self, block: DiffusionUNetResnetBlock) -> None:
        """Share the layers of `block`."""
        super().__init__()
        self.block = block
        self.upsample_conv = UpsampleConv(block.conv1.conv)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        """Turn [N, C, X, Y, Z] and an embedding [N, E] into [N, C', 2X, 2Y, 2Z]."""
        block = self.block
        h = self.upsample_conv(block.nonlinearity(block.norm1(x)))
        h = h + block.time_emb_proj(block.nonlinearity(emb))[:, :, None, None, None]
        h = block.conv2(block.nonlinearity(block.norm2(h)))
        output: torch.Tensor = block.skip_connection(block.upsample(x)) + h
        return output


def prepare(network: nn.Module, fuse_upsampling: bool = False) -> nn.Module:
    """Replace, in place, the modules that export badly by ones that compute the same.

    GroupNorm and MAISI's GroupNorm become `MomentsGroupNorm`, MONAI's attention `Attention`; with
    `fuse_upsampling`, upsampling and the convolution after it become `UpsampleConv`.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.GroupNorm):
            setattr(network, name, MomentsGroupNorm(child))
        elif isinstance(child, SABlock | CrossAttentionBlock):
            setattr(network, name, Attention(child))
        elif fuse_upsampling and _upsamples_and_convolves(child):
            setattr(network, name, UpsampleConv(child.postconv.conv))
        elif (
            fuse_upsampling
            and isinstance(child, DiffusionUNetResnetBlock)
            and _upsamples(child.upsample)
        ):
            setattr(network, name, UpsampleBlock(child))
            prepare(child)
        else:
            prepare(child, fuse_upsampling)
    return network


def _upsamples_and_convolves(module: nn.Module) -> TypeGuard[Any]:
    """Return whether it repeats every voxel and then convolves, as without `resblock_updown`."""
    return _upsamples(module) and hasattr(module, "postconv")


def _upsamples(module: nn.Module | None) -> bool:
    """Return whether it doubles the grid by repeating every voxel."""
    return isinstance(module, UpSample) and any(
        layer.mode == "nearest" and layer.scale_factor == (2.0, 2.0, 2.0)
        for layer in module.children()
        if isinstance(layer, nn.Upsample)
    )
