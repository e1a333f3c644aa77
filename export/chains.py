"""Convolutional networks cut before every normalisation, into subgraphs that run slab by slab.

Between two GroupNorms there are only convolutions, which reach one voxel. So a subgraph can process
its input one slab at a time, with one plane of each neighbour, and compute the same as on the whole
volume. The next GroupNorm needs the mean and the variance per channel of the whole volume; each
subgraph returns those of its slab. `subgraph_onnx` writes subgraphs as ONNX, `backends/slabs` runs
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from monai.apps.generation.maisi.networks.autoencoderkl_maisi import (
    MaisiConvolution,
    MaisiDownsample,
    MaisiGroupNorm3D,
    MaisiResBlock,
    MaisiUpsample,
)
from torch import nn

Convolution: TypeAlias = nn.Conv3d | nn.ConvTranspose3d


@dataclass(frozen=True)
class Activation:
    """A tensor between subgraphs: its channels, and its planes per plane of the latent."""

    channels: int
    planes: int


@dataclass(frozen=True)
class Subgraph:
    """One convolution of 3 x 3 x 3 and the operations between it and its neighbouring subgraphs.

    In this order: the input times `scale`, `norm` and SiLU, `before` (1 x 1 x 1), the convolution
    with a change of size, the addition of `skip`, SiLU, `after` (1 x 1 x 1), times `scale_after`.
    `resize`: `up` doubles the input by trilinear interpolation first, `transpose` is a transposed
    convolution with a stride of 2, `down` a stride of 2 with zeros after the last voxel, `stride` a
    stride of 2 with zeros on both sides. `shortcut` is a 1 x 1 x 1 convolution of the unchanged
    input; its result is the output `shortcut_to`. `moments`: the subgraph also returns mean and
    variance of each channel of its output. `bits`: the input are label ids, whose bits are the
    channels; `ids`: the output is the id of the largest channel.
    """

    input: str
    output: str
    conv: Convolution
    scale: float = 1.0
    norm: nn.GroupNorm | None = None
    silu: bool = False
    before: Convolution | None = None
    resize: str | None = None
    skip: str | None = None
    silu_after: bool = False
    after: Convolution | None = None
    scale_after: float = 1.0
    shortcut: Convolution | None = None
    shortcut_to: str | None = None
    moments: bool = False
    bits: bool = False
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Chain:
    """A network in subgraphs: from the activation `input` to `output`."""

    input: str
    output: str
    activations: dict[str, Activation]
    subgraphs: list[Subgraph]


class _Cutter:
    """Collects the subgraphs of a network, block by block."""

    def __init__(self, name: str, channels: int, planes: int) -> None:
        self.subgraphs: list[Subgraph] = []
        self.activations = {name: Activation(channels, planes)}
        self.at = name  # the input of the next subgraph

    def add(self, layer: nn.Module, **parts: Any) -> None:
        """Add a subgraph whose input is the output of the last one."""
        conv, resize = _convolution(layer), parts.get("resize")
        planes = self.activations[self.at].planes
        if resize is not None:
            planes = planes * 2 if resize in ("up", "transpose") else planes // 2
        name = f"x{len(self.subgraphs)}"
        self.activations[name] = Activation(conv.out_channels, planes)
        self.subgraphs.append(Subgraph(self.at, name, conv, **parts))
        self.at = name

    def residual(self, block: MaisiResBlock) -> None:
        """Add both halves of a block; the first computes the shortcut, where that is convolved."""
        skip, parts = self.at, {}
        if isinstance(block.nin_shortcut, MaisiConvolution):
            skip, shortcut = f"s{len(self.subgraphs)}", _convolution(block.nin_shortcut)
            planes = self.activations[self.at].planes
            self.activations[skip] = Activation(shortcut.out_channels, planes)
            parts = {"shortcut": shortcut, "shortcut_to": skip}
        self.add(block.conv1, norm=block.norm1, silu=True, **parts)
        self.add(block.conv2, norm=block.norm2, silu=True, skip=skip)

    def walk(self, blocks: Sequence[nn.Module]) -> None:
        """Add a MAISI encoder or decoder.

        Raises ValueError for a block that reaches beyond a voxel's neighbours, such as attention.
        """
        norm = {}
        for block in blocks:
            if isinstance(block, MaisiResBlock):
                self.residual(block)
            elif isinstance(block, MaisiUpsample):
                self.add(block.conv, resize="transpose" if block.use_convtranspose else "up")
            elif isinstance(block, MaisiDownsample):
                self.add(block.conv, resize="down")
            elif isinstance(block, MaisiGroupNorm3D):
                norm = {"norm": block}
            elif isinstance(block, MaisiConvolution):
                self.add(block, **norm)
            else:
                raise ValueError(f"{type(block).__name__} cannot be cut into slabs")

    def chain(self, output: str, first: dict[str, Any], last: dict[str, Any]) -> Chain:
        """Return the chain; `first` and `last` are parts of its first and last subgraph."""
        subgraphs = list(self.subgraphs)
        subgraphs[0] = replace(subgraphs[0], **first)
        self.activations[output] = self.activations.pop(subgraphs[-1].output)
        if "after" in last:
            self.activations[output] = replace(
                self.activations[output], channels=last["after"].out_channels
            )
        subgraphs[-1] = replace(subgraphs[-1], output=output, **last)
        norm_inputs = {subgraph.input for subgraph in subgraphs if subgraph.norm is not None}
        subgraphs = [
            replace(subgraph, moments=subgraph.output in norm_inputs) for subgraph in subgraphs
        ]
        return Chain(subgraphs[0].input, output, self.activations, subgraphs)


def decoder(autoencoder: Any, scale_factor: float, ids: Sequence[int] = ()) -> Chain:
    """Return the decoding half as a chain: latent -> image, or labels with `ids`, one per class."""
    cutter = _Cutter("latent", autoencoder.post_quant_conv.conv.in_channels, 1)
    cutter.walk(autoencoder.decoder.blocks)
    first = {"scale": 1 / scale_factor, "before": _convolution(autoencoder.post_quant_conv)}
    return cutter.chain("labels" if ids else "image", first, {"ids": tuple(ids)})


def encoder(autoencoder: Any, scale_factor: float, factor: int) -> Chain:
    """Return the encoding half as a chain: image -> latent, the mean of the posterior, scaled."""
    blocks = autoencoder.encoder.blocks
    cutter = _Cutter("image", _convolution(blocks[0]).in_channels, factor)
    cutter.walk(blocks)
    last = {"after": _convolution(autoencoder.quant_conv_mu), "scale_after": scale_factor}
    return cutter.chain("latent", {}, last)


def mask_encoder(controlnet: Any, factor: int) -> Chain:
    """Return the ControlNet's embedding of a mask as a chain: labels -> embedding."""
    embed = controlnet.controlnet_cond_embedding
    cutter = _Cutter("labels", 1, factor)
    for block in (embed.conv_in, *embed.blocks):
        strided = max(block.conv.stride) == 2
        cutter.add(block, resize="stride" if strided else None, silu_after=True)
    cutter.add(embed.conv_out)
    return cutter.chain("embedding", {"bits": True}, {})


def _convolution(layer: nn.Module) -> Convolution:
    """Return the only convolution inside MONAI's wrappers."""
    (conv,) = (module for module in layer.modules() if isinstance(module, Convolution))
    return conv
