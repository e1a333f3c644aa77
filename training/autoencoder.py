"""Training of the autoencoder: L1 and L2 of voxels, L1 of their differences, a small KL term."""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from export import networks, variant

from . import data
from .muon import Trainer
from .synthesis import CONTRASTS, MODALITIES

BATCH = 2  # crops; PyTorch chooses a slow convolution for small inputs of batch 1
# (share of the steps up to which it applies, voxels of a cube's side; 0: whole volumes). Whole
# volumes come last, since the statistics of norms depend on the size.
CROPS = ((0.5, 32), (0.85, 48), (1.0, 0))


def plain_norms(network: nn.Module) -> nn.Module:
    """Replace MAISI's GroupNorm, in place, by PyTorch's, which has a faster backward pass."""
    for name, child in network.named_children():
        if isinstance(child, nn.GroupNorm) and type(child) is not nn.GroupNorm:
            norm = nn.GroupNorm(child.num_groups, child.num_channels, child.eps)
            norm.load_state_dict(child.state_dict())
            setattr(network, name, norm)
        else:
            plain_norms(child)
    return network


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB for a peak of 1."""
    return float(-10 * torch.log10((a - b).square().mean()))


class Samples:
    """Random images from the subjects on disk, of which `count` are in memory."""

    def __init__(self, cache: Path, count: int = 24) -> None:
        self.cache, self.subjects = cache, deque[Any](maxlen=count)

    def draw(self, crop: int) -> torch.Tensor:
        """Return a random image `[1, 1, X, Y, Z]`: a cube of `crop` voxels, or all of it (0)."""
        if len(self.subjects) < 8 or random.random() < 0.15:
            self.subjects.append(data.load(random.choice(data.paths(self.cache))))
        mask, images, _ = random.choice(self.subjects)
        image = data.image(mask, images, random.choice(list(MODALITIES)))
        if crop:
            corner = [random.randint(0, n - crop) for n in image.shape]
            image = image[tuple(slice(c, c + crop) for c in corner)]
        for axis in range(3):
            if random.random() < 0.5:
                image = np.flip(image, axis)
        gain = random.uniform(0.9, 1.1)
        return torch.from_numpy(image.copy() * np.float32(gain))[None, None]


def _differences(x: torch.Tensor) -> list[torch.Tensor]:
    return [x.diff(dim=axis) for axis in (2, 3, 4)]


def _loss(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    output, mean, sigma = network(image)
    error = (output - image).abs().mean() + 20 * (output - image).square().mean()
    edges = [
        (a - b).abs().mean() for a, b in zip(_differences(output), _differences(image), strict=True)
    ]
    kl = 0.5 * (mean.square() + sigma.square() - 2 * sigma.clamp_min(1e-6).log() - 1).mean()
    return torch.as_tensor(error + 0.3 * sum(edges) + 2e-5 * kl)


def train(cache: Path, steps: int, device: str, start: networks.Networks | None) -> None:
    """Train for `steps` on crops of increasing size; save and resume by `autoencoder.pt`.

    `start`: initial weights; None: random ones.
    """
    state_file = cache / "autoencoder.pt"
    network = plain_norms(networks.build(variant.load("mini"), "autoencoder")).to(device)
    nn.init.constant_(network.get_parameter("quant_conv_log_sigma.conv.bias"), -5.0)
    if start is not None:
        network.load_state_dict(start.autoencoder.state_dict())
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    trainer = Trainer(network, steps, lr=2e-3, average=0.995)
    if state_file.exists():
        trainer.resume(torch.load(state_file, weights_only=True))
    samples = Samples(cache)
    recent: deque[float] = deque(maxlen=50)
    while trainer.done < steps:
        crop = next(crop for share, crop in CROPS if trainer.done < share * steps)
        image = torch.cat([samples.draw(crop) for _ in range(BATCH if crop else 1)])
        image = image.to(device, memory_format=torch.channels_last_3d)
        loss = _loss(network, image)
        trainer.step(loss)
        recent.append(loss.item())
        if trainer.done % 200 == 0 or trainer.done == steps:
            torch.save(trainer.state(), state_file)
            print(
                f"autoencoder {trainer.done}/{steps} loss {np.mean(recent):.4f} "
                f"psnr {held_out_psnr(trainer.average, cache, 1):.2f} dB "
                f"{trainer.elapsed():.0f} s",
                flush=True,
            )


@torch.no_grad()
def held_out_psnr(network: Any, cache: Path, subjects: int) -> float:
    """Return the mean PSNR in dB of whole held-out volumes, T1, T2 and FLAIR."""
    values = []
    device = next(network.parameters()).device
    for path in data.paths(cache, held_out=True)[:subjects]:
        mask, images, _ = data.load(path)
        for name in CONTRASTS[:3]:
            image = torch.from_numpy(data.image(mask, images, name))[None, None].to(device)
            values.append(psnr(network.decode(network.encode(image)[0]).clamp_min(0), image))
    return float(np.mean(values))
