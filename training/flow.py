"""Training of UNet and ControlNet by rectified flow in the autoencoder's latent space.

A latent at timestep t is `(1 - t/1000) * clean + t/1000 * noise` and the target velocity is
`clean - noise` (Liu et al., 2022; MONAI's RFlowScheduler). All contrasts of a mask share one mask
embedding, which does not depend on them.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from export import networks, variant
from export.graph_modules import ControlNetWithoutEmbedding

from . import data
from .anatomy import BASAL_GANGLIA, TUMOUR, WMH
from .autoencoder import plain_norms
from .masks import bits
from .muon import Trainer
from .synthesis import MODALITIES, without_head

MODALITIES_A_STEP = 3
LABEL_DROPPED = 0.08  # label 0 is the unconditional row of guidance
# Weight of the part of the error in which the modalities of a step differ. Without a mask it is
# small beside the part that they share, and the class label alone decides it.
DIFFERENCE = 2.0
# Regions that are small, and whose intensity differs in one modality: lesions are bright in FLAIR,
# basal ganglia dark in SWI. Their share of the error is small, hence a weight of their own.
LESIONS = (WMH, TUMOUR)
SMALL = 6.0
FORMAT = torch.channels_last_3d


def _clone_entry(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    return args, {**kwargs, "hidden_states": kwargs["hidden_states"].clone()}


def _clone_skips(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    skips = [skip.clone() for skip in output[1]]
    return skips[-1], skips


class Pair(nn.Module):
    """UNet and ControlNet as one module for training.

    MONAI adds the ControlNet's residuals to the skips in place, which autograd rejects; the hooks
    replace the skips by copies. The last skip remains the input of the middle block.
    """

    def __init__(self) -> None:
        super().__init__()
        mini = variant.load("mini")
        self.unet = plain_norms(networks.build(mini, "diffusion_unet"))
        # Its input is about 200, so that training soon makes all of its outputs 0.
        self.unet.get_submodule("spacing_layer").requires_grad_(False)
        self.controlnet = plain_norms(networks.build(mini, "controlnet"))
        blocks: Any = self.unet.get_submodule("down_blocks")
        for block in blocks:
            block.register_forward_pre_hook(_clone_entry, with_kwargs=True)
            block.register_forward_hook(_clone_skips, with_kwargs=True)

    def load(self, weights: networks.Networks) -> None:
        """Copy the weights of loaded networks."""
        self.unet.load_state_dict(weights.diffusion_unet.state_dict())
        self.controlnet.load_state_dict(weights.controlnet.state_dict())

    def embed(self, mask: torch.Tensor) -> torch.Tensor:
        """Return the ControlNet's embedding of label masks `[B, X, Y, Z]`."""
        network: Any = self.controlnet
        return torch.as_tensor(network.controlnet_cond_embedding(bits(mask)))

    def forward(
        self,
        latent: torch.Tensor,
        timestep: torch.Tensor,
        label: torch.Tensor,
        spacing: torch.Tensor,
        embedding: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the velocity for `latent`, both `[B, 4, x, y, z]`.

        `timestep` `[B]` in 0..1000, `label` `[B]` of the modality, `spacing` `[B, 3]` in mm * 100,
        `embedding` by `embed`.
        """
        residuals: dict[str, Any] = {}
        if embedding is not None:
            down, middle = ControlNetWithoutEmbedding(self.controlnet)(
                latent, timestep, label, embedding
            )
            residuals = {
                "down_block_additional_residuals": down,
                "mid_block_additional_residual": middle,
            }
        return torch.as_tensor(
            self.unet(
                x=latent,
                timesteps=timestep,
                class_labels=label,
                spacing_tensor=spacing,
                **residuals,
            )
        )


@dataclass(frozen=True)
class Latents:
    """A subject: mask `[X, Y, Z]` uint8, scaled latents `[8, 4, x, y, z]`, spacing in mm."""

    mask: torch.Tensor
    clean: torch.Tensor
    spacing: float


@torch.no_grad()
def encode(cache: Path, autoencoder: Any, limit: int) -> float:
    """Encode up to `limit` subjects to `latents/*.pt`, unscaled; return their scale factor.

    It is 1 / standard deviation of the latents of the first 12 subjects.
    """
    folder = cache / "latents"
    folder.mkdir(exist_ok=True)
    device = next(autoencoder.parameters()).device
    for path in data.paths(cache)[:limit]:
        target = folder / f"{path.stem}.pt"
        if target.exists():
            continue
        mask, images, spacing = data.load(path)
        stack = [
            torch.from_numpy(data.image(mask, images, name))[None, None].to(device)
            for name in MODALITIES
        ]
        clean = torch.cat([autoencoder.encode(image)[0] for image in stack]).cpu()
        part = target.with_suffix(".part")
        torch.save({"mask": torch.from_numpy(mask), "clean": clean, "spacing": spacing}, part)
        part.rename(target)
    sample = [folder / f"{path.stem}.pt" for path in data.paths(cache)[: min(limit, 12)]]
    latents = [torch.load(path, weights_only=True)["clean"] for path in sample]
    return float(1 / torch.cat(latents).std())


def _draw(cache: Path, scale: float, masked: bool) -> Latents:
    """Return a random encoded subject; without a mask one of little variation.

    A network this small does not learn heads of the full variation without a mask: in latent voxels
    of 8 mm, the mean of all subjects then explains a seventh of their variance.
    """
    paths = [
        path
        for path in (cache / "latents").glob("*.pt")
        if masked or data.variation(int(path.stem)) < 1
    ]
    file = torch.load(random.choice(paths), weights_only=True)
    return Latents(file["mask"], file["clean"] * scale, file["spacing"])


def _near(mask: torch.Tensor, labels: tuple[int, ...]) -> torch.Tensor:
    """Return 1 for latent voxels with one of the labels: `[1, X, Y, Z]` -> `[1, 1, x, y, z]`."""
    inside = torch.isin(mask, torch.tensor(labels, device=mask.device))
    return nn.functional.max_pool3d(inside.float()[:, None], 4)


def loss(
    pair: Pair, subject: Latents, masked: bool, device: str, teacher: Pair | None = None
) -> torch.Tensor:
    """Return the weighted squared error of the velocity for a few modalities of a subject.

    The modalities share noise and a timestep, uniform in 0..1000, so that only labels differ. With
    a mask, the target outside the basal ganglia is the velocity of `teacher`, if there is one.
    """
    mask, choices = subject.mask[None], range(8)
    if masked and random.random() < 0.2:  # skull-stripped modalities take masks without a head too
        mask, choices = torch.from_numpy(without_head(mask.numpy())), range(4, 8)
    mask = mask.to(device)
    names = random.sample(choices, MODALITIES_A_STEP)
    label = torch.tensor(list(MODALITIES.values()))[names]
    label[torch.rand(len(label)) < LABEL_DROPPED] = 0
    clean = subject.clean[names].to(device)
    noise = torch.randn_like(clean[:1])
    t = 1000 * torch.rand(1, device=device)
    share = t / 1000
    noisy = ((1 - share) * clean + share * noise).contiguous(memory_format=FORMAT)
    ganglia, embedding = _near(mask, BASAL_GANGLIA), None
    weight = 1 + SMALL * ganglia
    if masked:
        embedding = pair.embed(mask).repeat_interleave(len(names), 0)
        head = nn.functional.max_pool3d((mask != 0).float()[:, None], 4)
        weight = 0.15 + 0.85 * head + SMALL * (ganglia + _near(mask, LESIONS))
    spacing = torch.full((len(names), 3), 100 * subject.spacing, device=device)
    inputs = noisy, t.repeat(len(names)), label.to(device), spacing
    target = clean - noise
    if masked and teacher is not None:
        with torch.no_grad():
            followed = teacher(*inputs, teacher.embed(mask).repeat_interleave(len(names), 0))
        target = torch.where(ganglia > 0, target, followed)
    error = pair(*inputs, embedding) - target
    squares = error.square()
    if not masked and label.all():
        squares = squares + DIFFERENCE * (error - error.mean(0, keepdim=True)).square()
    error = squares.mean(1, keepdim=True)
    return torch.as_tensor((weight * error).sum() / weight.sum() / len(names))


def train(
    cache: Path, steps: int, device: str, scale: float, start: networks.Networks | None
) -> None:
    """Train for `steps`, a third of them with the mask.

    `flow.pt` in `cache` holds the state, from which a run resumes. `scale`: the factor of latents;
    `start`: initial weights, whose velocities are the targets of steps with a mask, so that volumes
    from masks change little; None: random weights and no such targets.
    """
    state_file = cache / "flow.pt"
    pair, teacher = Pair().to(device), None
    if start is not None:
        pair.load(start)
    pair.to(memory_format=FORMAT)  # type: ignore[call-overload]
    if start is not None:
        teacher = copy.deepcopy(pair).eval()
    trainer = Trainer(pair, steps, lr=2e-3, average=0.995)
    recent = {masked: deque[float](maxlen=50) for masked in (True, False)}

    def next_loss() -> torch.Tensor:
        masked = trainer.done % 3 == 0
        error = loss(pair, _draw(cache, scale, masked), masked, device, teacher)
        recent[masked].append(error.item())
        return error

    def report() -> str:
        masked, alone = (np.mean(recent[masked]) for masked in (True, False))
        return f"loss {masked:.4f} with a mask, {alone:.4f} without"

    trainer.run(state_file, next_loss, report, scale=scale)
