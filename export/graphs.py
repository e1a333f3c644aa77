"""The modules that become ONNX graphs; what they take and give is the serving contract.

Those that are convolutions throughout are written as chains of stages, see `chains`.
They hold MONAI's networks as they are. Each computes in float32 at its border, whatever the type
inside: the update of the latent loses nothing to float16. What TensorRT cannot do with UINT8 is
done in float32: it can only cast it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from export import chains
from export.chains import Chain
from export.networks import Networks
from export.variant import Variant

Shape = tuple[int | str, ...]

_TYPES = {
    "FP32": torch.float32,
    "FP16": torch.float16,
    "INT64": torch.int64,
    "UINT8": torch.uint8,
}


@dataclass(frozen=True)
class Graph:
    """One graph to export.

    `inputs` and `outputs`: name -> shape, where a string is a dynamic axis: `rows`, `x`, or
    `8*x`, which is a multiple of 8. `types`: name -> FP32, FP16, INT64 or UINT8 in a build of
    float16; in one of float32, FP16 is FP32. `chain`: the same network in stages, which is what is
    written where there is one.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    types: dict[str, str]
    chain: Chain | None = None

    @property
    def file(self) -> str:
        """The file that stands for the graph in its folder."""
        return "model.onnx" if self.chain is None else "chain.json"

    def dtype(self, tensor: str, precision: str) -> torch.dtype:
        """Return the type of an input or output in a build of `precision`, fp32 or fp16."""
        kind = self.types[tensor]
        return torch.float32 if kind == "FP16" and precision == "fp32" else _TYPES[kind]


class MaskEncoder(nn.Module):
    """Label ids -> the ControlNet's conditioning embedding, once a volume."""

    values: torch.Tensor

    def __init__(self, controlnet: Any) -> None:
        """Take the embedding out of `controlnet`."""
        super().__init__()
        self.embed = controlnet.controlnet_cond_embedding
        bits = self.embed.conv_in.conv.in_channels
        values = (2.0 ** torch.arange(bits)).reshape(1, bits, 1, 1, 1)
        self.register_buffer("values", values, persistent=False)

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """Turn `labels` [R, X, Y, Z] uint8 into [R, C, x, y, z]; channel i is bit i of the id."""
        shifted = torch.floor(labels.float()[:, None] / self.values)
        embedding: torch.Tensor = self.embed(shifted - 2 * torch.floor(shifted / 2))
        return embedding


class Flow(nn.Module):
    """ControlNet without its mask embedding, UNet, guidance and the solver's update in one step."""

    def __init__(self, unet: Any, controlnet: Any = None) -> None:
        """Wrap `unet` and, where a mask steers it, `controlnet`."""
        super().__init__()
        self.unet = unet
        self.control = None if controlnet is None else Control(controlnet)

    def forward(
        self,
        *,
        latent: torch.Tensor,
        z: torch.Tensor,
        coefficients: torch.Tensor,
        timestep: torch.Tensor,
        guidance: torch.Tensor,
        spacing_mm100: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        top_region_index: torch.Tensor | None = None,
        bottom_region_index: torch.Tensor | None = None,
        embedding: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the next latent and the velocity, both [1, C, x, y, z].

        `z`: the velocity before, or anything where its coefficient is 0; `coefficients` [a, b, c];
        `spacing_mm100` [B, 3] (millimetres x 100): one row, or the conditional and the
        unconditional one, and so `class_labels` [B], the regions [B, 4] (one-hot x 100) and
        `embedding` [B, C, x, y, z], where a variant has them.
        """
        rows = spacing_mm100.shape[0]
        x, time = latent.expand(rows, -1, -1, -1, -1), timestep.expand(rows)
        down, middle = None, None
        if self.control is not None:
            assert embedding is not None
            down, middle = self.control(x, time, class_labels, embedding)
        out = self.unet(
            x,
            time,
            class_labels=class_labels,
            top_region_index_tensor=top_region_index,
            bottom_region_index_tensor=bottom_region_index,
            spacing_tensor=spacing_mm100,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).float()
        # First and last row are the same one when there is one: guidance then changes nothing.
        conditional, unconditional = out[:1], out[-1:]
        velocity = unconditional + guidance * (conditional - unconditional)
        return _update(velocity, latent, z, coefficients), velocity


class Control(nn.Module):
    """The ControlNet from its first convolution on, the mask's embedding given."""

    def __init__(self, controlnet: Any) -> None:
        """Share every part of `controlnet` but the embedding's."""
        super().__init__()
        self.net = controlnet

    def forward(
        self,
        x: torch.Tensor,
        time: torch.Tensor,
        class_labels: torch.Tensor | None,
        embedding: torch.Tensor,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the residuals for the UNet's skips and for its middle."""
        net = self.net
        emb = net._prepare_time_and_class_embedding(x, time, class_labels)
        hidden = net._apply_initial_convolution(x) + embedding
        skips, hidden = net._apply_down_blocks(emb, None, hidden)
        hidden = net._apply_mid_block(emb, None, hidden)
        residuals: tuple[list[torch.Tensor], torch.Tensor]
        residuals = net._apply_controlnet_blocks(hidden, skips)
        return residuals


class MaskFlow(nn.Module):
    """The mask generator's UNet and the solver's update in one step."""

    def __init__(self, unet: Any) -> None:
        """Wrap `unet`."""
        super().__init__()
        self.unet = unet

    def forward(
        self,
        *,
        latent: torch.Tensor,
        z: torch.Tensor,
        coefficients: torch.Tensor,
        timestep: torch.Tensor,
        anatomy_sizes: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the next latent and the network's output, both [1, C, x, y, z].

        `z` and `coefficients` as in `Flow`; `anatomy_sizes` [1, 10]: 0..1, or -1 for none.
        """
        out = self.unet(latent, timestep, context=anatomy_sizes[:, None]).float()
        return _update(out, latent, z, coefficients), out


class VaeDecoder(nn.Module):
    """Latent -> image, both as the sampler and the viewer know them."""

    def __init__(self, autoencoder: Any, scale_factor: float) -> None:
        """Wrap the decoding half of `autoencoder`."""
        super().__init__()
        self.post_quant_conv, self.decoder = autoencoder.post_quant_conv, autoencoder.decoder
        self.scale_factor = scale_factor

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """Turn `latent` [1, C, x, y, z] into [1, 1, f*x, f*y, f*z], 0..1."""
        image: torch.Tensor = self.decoder(self.post_quant_conv(latent / self.scale_factor))
        return image.float()


class VaeEncoder(nn.Module):
    """Image -> latent: the mean of the posterior, scaled as the UNet was trained."""

    def __init__(self, autoencoder: Any, scale_factor: float) -> None:
        """Wrap the encoding half of `autoencoder`."""
        super().__init__()
        self.encoder, self.quant_conv_mu = autoencoder.encoder, autoencoder.quant_conv_mu
        self.scale_factor = scale_factor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Turn `image` [1, 1, f*x, f*y, f*z], 0..1, into [1, C, x, y, z]."""
        mean: torch.Tensor = self.quant_conv_mu(self.encoder(image))
        return mean.float() * self.scale_factor


class MaskDecoder(nn.Module):
    """Latent of a mask -> label ids."""

    ids: torch.Tensor

    def __init__(self, autoencoder: Any, scale_factor: float, ids: list[int]) -> None:
        """Wrap the decoding half of `autoencoder`; `ids`: its class -> label id."""
        super().__init__()
        self.post_quant_conv, self.decoder = autoencoder.post_quant_conv, autoencoder.decoder
        self.scale_factor = scale_factor
        self.register_buffer("ids", torch.tensor(ids, dtype=torch.float32), persistent=False)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """Turn `latent` [1, C, x, y, z] into labels [1, f*x, f*y, f*z] uint8."""
        classes = self.decoder(self.post_quant_conv(latent / self.scale_factor)).argmax(1)
        return self.ids[classes].to(torch.uint8)


def _update(
    out: torch.Tensor, latent: torch.Tensor, z: torch.Tensor, coefficients: torch.Tensor
) -> torch.Tensor:
    a, b, c = coefficients[0], coefficients[1], coefficients[2]
    return a * latent + b * out + c * z


def graphs(variant: Variant, networks: Networks) -> list[Graph]:
    """Return the graphs of a variant, of the networks it has."""
    channels, factor = variant.serving["latent"]["channels"], variant.serving["latent"]["factor"]
    step = variant.multiple
    latent: Shape = (1, channels, *_grid(step))
    free: Shape = (1, channels, *_grid(1))
    voxels = _grid(factor)
    update = {"latent": latent, "z": latent, "coefficients": (3,), "timestep": (1,)}
    moved: dict[str, Shape] = {"next_latent": latent, "velocity": latent}
    unet = variant.networks["diffusion_unet"]
    flow: dict[str, Shape] = {**update, "guidance": (1,)}
    if unet.get("num_class_embeds") is not None:
        flow["class_labels"] = ("rows",)
    flow["spacing_mm100"] = ("rows", 3)
    for region in ("top_region_index", "bottom_region_index"):
        if unet.get(f"include_{region}_input"):
            flow[region] = ("rows", 4)

    made: list[Graph] = []

    def add(
        name: str,
        module: nn.Module,
        inputs: dict[str, Shape],
        outputs: dict[str, Shape],
        chain: Chain | None = None,
    ) -> None:
        made.append(Graph(name, module, inputs, outputs, variant.tensors, chain))

    if networks.controlnet is not None:
        width = variant.networks["controlnet"]["num_channels"][0]
        embedding: dict[str, Shape] = {"embedding": ("rows", width, *_grid(step))}
        labels: dict[str, Shape] = {"labels": ("rows", *_grid(step * factor))}
        cut = chains.mask_encoder(networks.controlnet, factor)
        add("mask_encoder", MaskEncoder(networks.controlnet), labels, embedding, cut)
    add("flow", Flow(networks.diffusion_unet), flow, moved)
    if networks.controlnet is not None:
        both = Flow(networks.diffusion_unet, networks.controlnet)
        add("flow_masked", both, {**flow, **embedding}, moved)
    scale, autoencoder = networks.scale_factor, networks.autoencoder
    image: dict[str, Shape] = {"image": (1, 1, *voxels)}
    cut = chains.decoder(autoencoder, scale)
    add("vae_decoder", VaeDecoder(autoencoder, scale), {"latent": free}, image, cut)
    cut = chains.encoder(autoencoder, scale, factor)
    add("vae_encoder", VaeEncoder(autoencoder, scale), image, {"latent": free}, cut)
    if networks.mask_diffusion is not None:
        sizes: dict[str, Shape] = {"anatomy_sizes": (1, 10)}
        add("mask_flow", MaskFlow(networks.mask_diffusion), {**update, **sizes}, moved)
        assert networks.mask_scale_factor is not None
        ids = variant.serving["mask_labels"]
        decoder = MaskDecoder(networks.mask_autoencoder, networks.mask_scale_factor, ids)
        cut = chains.decoder(networks.mask_autoencoder, networks.mask_scale_factor, ids)
        add("mask_decoder", decoder, {"latent": free}, {"labels": (1, *voxels)}, cut)
    return made


def _grid(step: int) -> Shape:
    return tuple(axis if step == 1 else f"{step}*{axis}" for axis in "xyz")
