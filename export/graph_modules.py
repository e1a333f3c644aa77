"""The modules that become ONNX graphs; their inputs and outputs are the serving contract.

They wrap MONAI's networks without a change. Each computes in float32 at its border, whatever the
type inside, so that the update of the latent loses no digits to float16. What TensorRT cannot
compute in UINT8, which it can only cast, is computed in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class MaskEncoder(nn.Module):
    """Label ids -> the ControlNet's conditioning embedding, computed once per volume."""

    values: torch.Tensor

    def __init__(self, controlnet: Any) -> None:
        """Wrap the embedding of `controlnet`."""
        super().__init__()
        self.embed = controlnet.controlnet_cond_embedding
        bits = self.embed.conv_in.conv.in_channels
        values = (2.0 ** torch.arange(bits)).reshape(1, bits, 1, 1, 1)
        self.register_buffer("values", values, persistent=False)

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the embedding [R, C, x, y, z] of `labels` [R, X, Y, Z] uint8.

        Input channel i of the network is bit i of the id.
        """
        shifted = torch.floor(labels.float()[:, None] / self.values)
        embedding: torch.Tensor = self.embed(shifted - 2 * torch.floor(shifted / 2))
        return embedding


class Flow(nn.Module):
    """ControlNet without its mask embedding, UNet, guidance and the solver's update in one step."""

    def __init__(self, unet: Any, controlnet: Any = None) -> None:
        """Wrap `unet` and, where it is conditioned on a mask, `controlnet`."""
        super().__init__()
        self.unet = unet
        self.control = None if controlnet is None else ControlNetWithoutEmbedding(controlnet)

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

        `z`: the previous velocity, arbitrary where its coefficient is 0; `coefficients` [a, b, c];
        `spacing_mm100` [B, 3] (mm x 100): one row, or the conditional and the unconditional one;
        likewise `class_labels` [B], the regions [B, 4] (one-hot x 100) and `embedding`
        [B, C, x, y, z], where a variant has them.
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
        # A single row is both the first and the last: guidance then changes nothing.
        conditional, unconditional = out[:1], out[-1:]
        velocity = unconditional + guidance * (conditional - unconditional)
        return _update(velocity, latent, z, coefficients), velocity


class ControlNetWithoutEmbedding(nn.Module):
    """The ControlNet from its first convolution on; the mask's embedding is an input."""

    def __init__(self, controlnet: Any) -> None:
        """Wrap `controlnet`, whose embedding of a mask is not used."""
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

        `z` and `coefficients` as in `Flow`; `anatomy_sizes` [1, sizes]: 0..1, or -1 for absent.
        """
        out = self.unet(latent, timestep, context=anatomy_sizes[:, None]).float()
        return _update(out, latent, z, coefficients), out


class VaeDecoder(nn.Module):
    """Latent as the sampler has it -> image, 0..1."""

    def __init__(self, autoencoder: Any, scale_factor: float) -> None:
        """Wrap the decoding half of `autoencoder`."""
        super().__init__()
        self.post_quant_conv, self.decoder = autoencoder.post_quant_conv, autoencoder.decoder
        self.scale_factor = scale_factor

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """Return the image [1, 1, f*x, f*y, f*z], 0..1, of `latent` [1, C, x, y, z]."""
        image: torch.Tensor = self.decoder(self.post_quant_conv(latent / self.scale_factor))
        return image.float()


class VaeEncoder(nn.Module):
    """Image -> latent: the mean of the posterior, multiplied by the UNet's scale factor."""

    def __init__(self, autoencoder: Any, scale_factor: float) -> None:
        """Wrap the encoding half of `autoencoder`."""
        super().__init__()
        self.encoder, self.quant_conv_mu = autoencoder.encoder, autoencoder.quant_conv_mu
        self.scale_factor = scale_factor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the latent [1, C, x, y, z] of `image` [1, 1, f*x, f*y, f*z], 0..1."""
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
        """Return labels [1, f*x, f*y, f*z] uint8 of `latent` [1, C, x, y, z]."""
        classes = self.decoder(self.post_quant_conv(latent / self.scale_factor)).argmax(1)
        return self.ids[classes].to(torch.uint8)


def _update(
    out: torch.Tensor, latent: torch.Tensor, z: torch.Tensor, coefficients: torch.Tensor
) -> torch.Tensor:
    a, b, c = coefficients[0], coefficients[1], coefficients[2]
    return a * latent + b * out + c * z
