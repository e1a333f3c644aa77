"""Training of the autoencoder. Its loss: voxels, edges, local contrast, coarse latents, KL."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
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
SHARPNESS = 0.7  # weight of the local gradient, for decoded volumes nearly as sharp as renders
# Weight of the KL term, in nats per element. With 2e-5 an element holds 10 nats, most of which no
# flow of this size can predict.
KL = 1e-3


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


def _gradient(x: torch.Tensor, side: int) -> torch.Tensor:
    """Return the root of the mean squared difference of neighbours in cubes of `side` voxels."""
    squares = torch.zeros_like(x)
    for axis, difference in zip((2, 3, 4), _differences(x), strict=True):
        squares.narrow(axis, 0, difference.shape[axis]).add_(difference.square())
    return (nn.functional.avg_pool3d(squares, side) + 1e-6).sqrt()


def gradient_error(output: torch.Tensor, image: torch.Tensor, side: int = 4) -> torch.Tensor:
    """Return the mean absolute error of the local gradient in cubes of `side` voxels."""
    return (_gradient(output, side) - _gradient(image, side)).abs().mean()


def sharpness(output: torch.Tensor, image: torch.Tensor) -> float:
    """Return the ratio of the gradient energies of `output` and `image`, both `[B, 1, X, Y, Z]`."""
    energies = [sum(float(d.square().sum()) for d in _differences(x)) for x in (output, image)]
    return energies[0] / energies[1]


def divergence(mean: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return the mean KL divergence from the standard normal distribution in nats per element."""
    log = sigma.clamp_min(1e-6).log()
    return torch.as_tensor(0.5 * (mean.square() + sigma.square() - 2 * log - 1).mean())


def _loss(network: Any, image: torch.Tensor) -> torch.Tensor:
    """Return the loss of a batch `[B, 1, X, Y, Z]`.

    The latent averaged in cubes of 2 voxels has to decode to the averaged image, so that the coarse
    part of a latent is the coarse part of the image and a flow can learn it first (Skorokhodov et
    al., 2025, arXiv 2502.14831). The local gradient keeps texture that squared errors blur.
    """
    mean, sigma = network.encode(image)
    output = network.decode(mean + sigma * torch.randn_like(sigma))
    edges = [
        (a - b).abs().mean() for a, b in zip(_differences(output), _differences(image), strict=True)
    ]
    pool = nn.functional.avg_pool3d
    coarse = (network.decode(pool(mean, 2)) - pool(image, 2)).abs().mean()
    error = (output - image).abs().mean() + 20 * (output - image).square().mean()
    return torch.as_tensor(
        error
        + 0.3 * sum(edges)
        + SHARPNESS * gradient_error(output, image)
        + 0.5 * coarse
        + KL * divergence(mean, sigma)
    )


def train(cache: Path, steps: int, device: str, start: networks.Networks | None) -> None:
    """Train for `steps` on crops of increasing size.

    `autoencoder.pt` in `cache` holds the state, from which a run resumes. `start`: initial weights;
    None: random ones.
    """
    state_file = cache / "autoencoder.pt"
    network = plain_norms(networks.build(variant.load("mini"), "autoencoder")).to(device)
    nn.init.constant_(network.get_parameter("quant_conv_log_sigma.conv.bias"), -5.0)
    if start is not None:
        network.load_state_dict(start.autoencoder.state_dict())
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    trainer = Trainer(network, steps, lr=2e-3, average=0.995)
    samples = Samples(cache)
    recent: deque[float] = deque(maxlen=50)

    def loss() -> torch.Tensor:
        crop = crop_of(trainer, CROPS)
        image = torch.cat([samples.draw(crop) for _ in range(BATCH if crop else 1)])
        error = _loss(network, image.to(device, memory_format=torch.channels_last_3d))
        recent.append(error.item())
        return error

    def report() -> str:
        quality = held_out_quality(trainer.average, cache, 1)
        return f"loss {np.mean(recent):.4f} {numbers(quality)}"

    trainer.run(state_file, loss, report, every=200)


def crop_of(trainer: Trainer, crops: Sequence[tuple[float, int]]) -> int:
    """Return the side of the crops in the next step; 0 is the whole volume. See CROPS."""
    return next(crop for share, crop in crops if trainer.done < share * trainer.steps)


def numbers(quality: dict[str, float]) -> str:
    """Return measures as text, such as `psnr 30.1 kl 2.5`."""
    return " ".join(f"{name} {value:.3g}" for name, value in quality.items())


@torch.no_grad()
def held_out_quality(network: Any, cache: Path, subjects: int) -> dict[str, float]:
    """Return means over whole held-out volumes, T1, T2 and FLAIR.

    `psnr` in dB; `sharpness` as the function returns it; `smooth`: the share of a latent's
    variance that is left after a mean over cubes of 3 voxels; `kl` in nats per element.
    """
    rows = []
    device = next(network.parameters()).device
    for path in data.paths(cache, held_out=True)[:subjects]:
        mask, images, _ = data.load(path)
        for name in CONTRASTS[:3]:
            image = torch.from_numpy(data.image(mask, images, name))[None, None].to(device)
            mean, sigma = network.encode(image)
            decoded = network.decode(mean).clamp_min(0)
            smooth = nn.functional.avg_pool3d(mean, 3, 1, 1).var() / mean.var()
            kl = divergence(mean, sigma)
            rows.append([psnr(decoded, image), sharpness(decoded, image), float(smooth), float(kl)])
    means = np.mean(rows, axis=0)
    return dict(zip(("psnr", "sharpness", "smooth", "kl"), map(float, means), strict=True))
