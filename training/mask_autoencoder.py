"""Training of the autoencoder of masks. Its loss: cross-entropy, coarse latents, KL."""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export import networks, variant

from . import data, mask_data
from .anatomy import TUMOUR, WMH
from .autoencoder import crop_of, divergence, numbers, plain_norms
from .mask_quality import mean_dice
from .masks import LABELS, bits, classes, labels
from .muon import Trainer

BATCH = 2  # crops
# As those of the autoencoder of images; whole masks take long.
CROPS = ((0.5, 32), (0.95, 48), (1.0, 0))
LESION = 3.0  # weight of voxels of lesions, which are few
# Weight of the KL term, in nats per element; the cross-entropy is in nats per voxel. There are 16
# voxels for an element, so that 1/16 would be the variational bound.
KL = 0.01


def build(state: dict[str, torch.Tensor] | None = None) -> Any:
    """Return mini's autoencoder of masks, for training, with fresh weights or those of `state`."""
    network = plain_norms(networks.build(variant.load("mini"), "mask_autoencoder"))
    if state is not None:
        network.load_state_dict(state)
    return network


def draw(masks: list[NDArray[np.uint8]], crop: int) -> NDArray[np.uint8]:
    """Return a random mask or its mirror image: a cube of `crop` voxels, or all of it (0)."""
    mask = random.choice(masks)
    if random.random() < 0.5:
        mask = mask_data.mirrored(mask)
    if crop:
        corner = [random.randint(0, n - crop) for n in mask.shape]
        mask = mask[tuple(slice(c, c + crop) for c in corner)]
    return mask


def loss(network: Any, masks: torch.Tensor) -> torch.Tensor:
    """Return the loss of uint8 masks `[B, X, Y, Z]`.

    As in the autoencoder of images, a latent averaged in cubes of 2 voxels has to decode to the
    mask at half the resolution: to the label of a random voxel of each cube of 2 voxels.
    """
    index = torch.from_numpy(classes(masks.cpu().numpy())).to(masks.device).long()
    mean, sigma = network.encode(bits(masks))
    logits = network.decode(mean + sigma * torch.randn_like(sigma)).float()
    weight = torch.ones(len(LABELS), device=masks.device)
    weight[[LABELS.index(WMH), LABELS.index(TUMOUR)]] = LESION
    error = nn.functional.cross_entropy(logits, index, weight)
    x, y, z = (random.randint(0, 1) for _ in range(3))
    logits = network.decode(nn.functional.avg_pool3d(mean, 2)).float()
    coarse = nn.functional.cross_entropy(logits, index[:, x::2, y::2, z::2], weight)
    return torch.as_tensor(error + 0.3 * coarse + KL * divergence(mean.float(), sigma.float()))


def train(cache: Path, steps: int, device: str) -> None:
    """Train for `steps` on crops of increasing size.

    `mask_autoencoder.pt` in `cache` holds the state, from which a run resumes.
    """
    state_file = cache / "mask_autoencoder.pt"
    network = build().to(device)
    nn.init.constant_(network.get_parameter("quant_conv_log_sigma.conv.bias"), -5.0)
    network.to(memory_format=torch.channels_last_3d)
    trainer = Trainer(network, steps, lr=2e-3, average=0.995)
    masks = [data.load_mask(path) for path in mask_data.paths(cache)]
    recent: deque[float] = deque(maxlen=50)

    def next_loss() -> torch.Tensor:
        crop = crop_of(trainer, CROPS)
        batch = np.stack([draw(masks, crop) for _ in range(BATCH if crop else 1)])
        error = loss(network, torch.from_numpy(batch).to(device))
        recent.append(error.item())
        return error

    def report() -> str:
        quality = held_out_quality(trainer.average, cache, 1)
        return f"loss {np.mean(recent):.4f} {numbers(quality)}"

    trainer.run(state_file, next_loss, report)


@torch.no_grad()
def decode(network: Any, latent: torch.Tensor) -> NDArray[np.uint8]:
    """Return the labels `[X, Y, Z]` of a latent `[1, 4, x, y, z]`."""
    return labels(network.decode(latent)[0].argmax(0).cpu().numpy())


@torch.no_grad()
def held_out_quality(network: Any, cache: Path, count: int) -> dict[str, float]:
    """Return means over up to `count` whole held-out masks.

    `dice`: of the reconstruction, the mean over labels; `accuracy`: the share of voxels with their
    label; `kl` in nats per element.
    """
    rows = []
    device = next(network.parameters()).device
    for path in mask_data.paths(cache, held_out=True)[:count]:
        mask = data.load_mask(path)
        mean, sigma = network.encode(bits(torch.from_numpy(mask)[None].to(device)))
        decoded = decode(network, mean)
        dice = mean_dice(classes(mask), classes(decoded))
        rows.append([dice, float((decoded == mask).mean()), float(divergence(mean, sigma))])
    means = np.mean(rows, axis=0)
    return dict(zip(("dice", "accuracy", "kl"), map(float, means), strict=True))
