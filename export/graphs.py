"""The modules that become ONNX graphs; what they take and give is the serving contract."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from export.networks import Networks
from export.variant import Variant


@dataclass(frozen=True)
class Graph:
    """One graph to export.

    `inputs` and `outputs`: name -> shape, where a string is a dynamic axis: `rows`, `x`, or
    `8*x`, which is a multiple of 8. Inputs are float32 but for those named in `integers`.
    """

    name: str
    module: nn.Module
    inputs: dict[str, tuple[int | str, ...]]
    outputs: dict[str, tuple[int | str, ...]]
    integers: dict[str, torch.dtype]


class MaskEncoder(nn.Module):
    """Label ids -> the ControlNet's conditioning embedding, once a volume."""

    bits: torch.Tensor

    def __init__(self, controlnet: Any) -> None:
        """Take the embedding out of `controlnet`."""
        super().__init__()
        self.embed = controlnet.controlnet_cond_embedding
        bits = controlnet.controlnet_cond_embedding.conv_in.conv.in_channels
        self.register_buffer("bits", 2 ** torch.arange(bits, dtype=torch.int32), persistent=False)

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """Turn `labels` [R, X, Y, Z] uint8 into [R, C, x, y, z]; channel i is bit i of the id."""
        bits = labels[:, None].int().bitwise_and(self.bits[:, None, None, None]).ne(0)
        embedding: torch.Tensor = self.embed(bits.float())
        return embedding


class Flow(nn.Module):
    """UNet, guidance and the solver's update in one step."""

    def __init__(self, unet: Any) -> None:
        """Wrap `unet`."""
        super().__init__()
        self.unet = unet

    def forward(
        self,
        latent: torch.Tensor,
        z: torch.Tensor,
        coefficients: torch.Tensor,
        timestep: torch.Tensor,
        guidance: torch.Tensor,
        class_labels: torch.Tensor,
        spacing_mm100: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the next latent and the velocity, both [1, C, x, y, z].

        `z`: the velocity before, or anything where its coefficient is 0; `coefficients` [a, b, c];
        `class_labels` [B] and `spacing_mm100` [B, 3] (millimetres x 100): one row, or the
        conditional and the unconditional one.
        """
        x, time = _rows(latent, timestep, class_labels)
        out = self.unet(x, time, class_labels=class_labels, spacing_tensor=spacing_mm100)
        return _update(out, latent, z, coefficients, guidance)


class FlowMasked(nn.Module):
    """ControlNet without its mask embedding, UNet, guidance and the solver's update in one step."""

    def __init__(self, unet: Any, controlnet: Any) -> None:
        """Wrap `unet` and `controlnet`."""
        super().__init__()
        self.unet, self.control = unet, Control(controlnet)

    def forward(
        self,
        latent: torch.Tensor,
        z: torch.Tensor,
        coefficients: torch.Tensor,
        timestep: torch.Tensor,
        guidance: torch.Tensor,
        class_labels: torch.Tensor,
        spacing_mm100: torch.Tensor,
        embedding: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Do what `Flow` does, steered by `embedding` [B, C, x, y, z]."""
        x, time = _rows(latent, timestep, class_labels)
        down, middle = self.control(x, time, class_labels, embedding)
        out = self.unet(
            x,
            time,
            class_labels=class_labels,
            spacing_tensor=spacing_mm100,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        )
        return _update(out, latent, z, coefficients, guidance)


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
        class_labels: torch.Tensor,
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
        return image


def _rows(
    latent: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    rows = class_labels.shape[0]
    return latent.expand(rows, -1, -1, -1, -1), timestep.expand(rows)


def _update(
    out: torch.Tensor,
    latent: torch.Tensor,
    z: torch.Tensor,
    coefficients: torch.Tensor,
    guidance: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    # First and last row are the same one when there is one: guidance then changes nothing.
    conditional, unconditional = out[:1], out[-1:]
    velocity = unconditional + guidance * (conditional - unconditional)
    a, b, c = coefficients[0], coefficients[1], coefficients[2]
    return a * latent + b * velocity + c * z, velocity


def graphs(variant: Variant, networks: Networks) -> list[Graph]:
    """Return the graphs of a variant; `networks` must have been prepared."""
    channels, factor = variant.serving["latent"]["channels"], variant.serving["latent"]["factor"]
    width = variant.networks["controlnet"]["num_channels"][0]
    step = variant.multiple
    grid = tuple(f"{step}*{axis}" for axis in "xyz")
    voxels = tuple(f"{step * factor}*{axis}" for axis in "xyz")
    latent = (1, channels, *grid)
    flow: dict[str, tuple[int | str, ...]] = {
        "latent": latent,
        "z": latent,
        "coefficients": (3,),
        "timestep": (1,),
        "guidance": (1,),
        "class_labels": ("rows",),
        "spacing_mm100": ("rows", 3),
    }
    moved: dict[str, tuple[int | str, ...]] = {"next_latent": latent, "velocity": latent}
    embedding = ("rows", width, *grid)
    unet, controlnet = networks.diffusion_unet, networks.controlnet
    return [
        Graph(
            "mask_encoder",
            MaskEncoder(controlnet),
            {"labels": ("rows", *voxels)},
            {"embedding": embedding},
            {"labels": torch.uint8},
        ),
        Graph("flow", Flow(unet), flow, moved, {"class_labels": torch.int64}),
        Graph(
            "flow_masked",
            FlowMasked(unet, controlnet),
            {**flow, "embedding": embedding},
            moved,
            {"class_labels": torch.int64},
        ),
        Graph(
            "vae_decoder",
            VaeDecoder(networks.autoencoder, networks.scale_factor),
            {"latent": (1, channels, "x", "y", "z")},
            {"image": (1, 1, *(f"{factor}*{axis}" for axis in "xyz"))},
            {},
        ),
    ]
