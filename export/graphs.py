"""The ONNX graphs of a variant: modules, names, shapes and types of their tensors.

Networks of convolutions only are written as chains of subgraphs, see `chains`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from export import chains
from export.chains import Chain
from export.graph_modules import (
    Flow,
    MaskDecoder,
    MaskEncoder,
    MaskFlow,
    VaeDecoder,
    VaeEncoder,
)
from export.networks import Networks
from export.variant import Variant

SymbolicShape = tuple[int | str, ...]
# The networks whose weights are in a graph; the UNets' files hold the scale of the latents.
NEEDS = {
    "mask_encoder": ("controlnet",),
    "flow": ("diffusion_unet",),
    "flow_masked": ("diffusion_unet", "controlnet"),
    "vae_decoder": ("autoencoder", "diffusion_unet"),
    "vae_encoder": ("autoencoder", "diffusion_unet"),
    "mask_flow": ("mask_diffusion",),
    "mask_decoder": ("mask_autoencoder", "mask_diffusion"),
}

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
    float16; in one of float32, FP16 becomes FP32. `chain`: the same network in subgraphs; where it
    is not None, the subgraphs are exported in place of `module`.
    """

    name: str
    module: nn.Module
    inputs: dict[str, SymbolicShape]
    outputs: dict[str, SymbolicShape]
    types: dict[str, str]
    chain: Chain | None = None

    @property
    def file(self) -> str:
        """The main file of the graph in its folder."""
        return "model.onnx" if self.chain is None else "chain.json"

    def dtype(self, tensor: str, precision: str) -> torch.dtype:
        """Return the type of an input or output in a build of `precision`, fp32 or fp16."""
        kind = self.types[tensor]
        return torch.float32 if kind == "FP16" and precision == "fp32" else _TYPES[kind]


def graphs(variant: Variant, networks: Networks) -> list[Graph]:
    """Return the graphs of a variant from its loaded networks, all on the CPU in float32."""
    channels, factor = variant.serving["latent"]["channels"], variant.serving["latent"]["factor"]
    step = variant.multiple
    latent: SymbolicShape = (1, channels, *_grid(step))
    any_latent: SymbolicShape = (1, channels, *_grid(1))
    voxels = _grid(factor)
    update = {"latent": latent, "z": latent, "coefficients": (3,), "timestep": (1,)}
    updated: dict[str, SymbolicShape] = {"next_latent": latent, "velocity": latent}
    unet = variant.networks["diffusion_unet"]
    flow: dict[str, SymbolicShape] = {**update, "guidance": (1,)}
    if unet.get("num_class_embeds") is not None:
        flow["class_labels"] = ("rows",)
    flow["spacing_mm100"] = ("rows", 3)
    for region in ("top_region_index", "bottom_region_index"):
        if unet.get(f"include_{region}_input"):
            flow[region] = ("rows", 4)

    listed: list[Graph] = []

    def add(
        name: str,
        module: nn.Module,
        inputs: dict[str, SymbolicShape],
        outputs: dict[str, SymbolicShape],
        chain: Chain | None = None,
    ) -> None:
        listed.append(Graph(name, module, inputs, outputs, variant.tensors, chain))

    if networks.controlnet is not None:
        width = variant.networks["controlnet"]["num_channels"][0]
        embedding: dict[str, SymbolicShape] = {"embedding": ("rows", width, *_grid(step))}
        labels: dict[str, SymbolicShape] = {"labels": ("rows", *_grid(step * factor))}
        chain = chains.mask_encoder(networks.controlnet, factor)
        add("mask_encoder", MaskEncoder(networks.controlnet), labels, embedding, chain)
    add("flow", Flow(networks.diffusion_unet), flow, updated)
    if networks.controlnet is not None:
        controlled = Flow(networks.diffusion_unet, networks.controlnet)
        add("flow_masked", controlled, {**flow, **embedding}, updated)
    scale, autoencoder = networks.scale_factor, networks.autoencoder
    image: dict[str, SymbolicShape] = {"image": (1, 1, *voxels)}
    chain = chains.decoder(autoencoder, scale)
    add("vae_decoder", VaeDecoder(autoencoder, scale), {"latent": any_latent}, image, chain)
    chain = chains.encoder(autoencoder, scale, factor)
    add("vae_encoder", VaeEncoder(autoencoder, scale), image, {"latent": any_latent}, chain)
    if networks.mask_diffusion is not None:
        size_count = variant.networks["mask_diffusion"]["cross_attention_dim"]
        sizes: dict[str, SymbolicShape] = {"anatomy_sizes": (1, size_count)}
        add("mask_flow", MaskFlow(networks.mask_diffusion), {**update, **sizes}, updated)
        assert networks.mask_scale_factor is not None
        ids = variant.serving["mask_labels"]
        decoder = MaskDecoder(networks.mask_autoencoder, networks.mask_scale_factor, ids)
        chain = chains.decoder(networks.mask_autoencoder, networks.mask_scale_factor, ids)
        add("mask_decoder", decoder, {"latent": any_latent}, {"labels": (1, *voxels)}, chain)
    return listed


def _grid(step: int) -> SymbolicShape:
    return tuple(axis if step == 1 else f"{step}*{axis}" for axis in "xyz")
