"""Fine-tuning of the decoder: latents that the flow generated have to decode to sharp images.

The encoder does not change, and with it the latents that the flow has learned.
"""

from __future__ import annotations

import random
from collections import deque
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from . import data
from .anatomy import TUMOUR, WMH
from .autoencoder import gradient_error, held_out_quality, numbers
from .flow import FORMAT, Pair
from .muon import Trainer
from .synthesis import MODALITIES

NOISE = (0.4, 1.0)  # range of the timestep / 1000 from which a latent is generated again
NOISE_STEPS = 8
MODALITIES_A_SUBJECT = 4
ADVERSARIAL = 0.08  # weight of the discriminator in the decoder's gradient
SHARPNESS = 1.25  # weight of the local gradient
# Weight of the local gradient in cubes of COARSE voxels. In the small cubes of the term above, the
# decoder cannot predict the gradient exactly, and learns less than its mean.
COARSE_SHARPNESS = 4.0
COARSE = 16
LESION = 4.0  # additional weight of the voxels of lesions
REGENERATED = 2 / 3  # share of the inputs that were generated again
# Relative frequencies of the modalities: the softest in generated volumes come most often.
FREQUENCIES = {
    "mri_t1": 2.0,
    "mri_t2": 2.0,
    "mri_flair": 1.0,
    "mri_swi": 0.5,
    "mri_t1_skull_stripped": 2.0,
    "mri_t2_skull_stripped": 1.5,
    "mri_flair_skull_stripped": 2.0,
    "mri_swi_skull_stripped": 0.7,
}


@torch.no_grad()
def regenerate(cache: Path, pair: Pair, scale: float, device: str) -> None:
    """Noise the latents of every subject and generate them again from its mask.

    `regenerated/*.pt` gets the modalities' positions in MODALITIES and unscaled latents
    `[M, 4, x, y, z]`. Their details come from the flow, their intensities mostly from the subject.
    """
    folder = cache / "regenerated"
    folder.mkdir(exist_ok=True)
    labels = torch.tensor(list(MODALITIES.values()))
    for source in sorted((cache / "latents").glob("*.pt")):
        target = folder / source.name
        if target.exists():
            continue
        file = torch.load(source, weights_only=True)
        names = random.sample(range(len(MODALITIES)), MODALITIES_A_SUBJECT)
        label = labels[names].to(device)
        spacing = torch.full((len(names), 3), 100 * file["spacing"], device=device)
        embedding = pair.embed(file["mask"][None].to(device)).repeat_interleave(len(names), 0)
        times = torch.linspace(random.uniform(*NOISE), 0, NOISE_STEPS + 1, device=device)
        clean = scale * file["clean"][names].to(device)
        latent = (1 - times[0]) * clean + times[0] * torch.randn_like(clean)
        for t, next_t in pairwise(times):
            velocity = pair(latent, (1000 * t).repeat(len(names)), label, spacing, embedding)
            latent = latent + (t - next_t) * velocity.float()
        part = target.with_suffix(".part")
        torch.save({"modalities": names, "latents": latent.cpu() / scale}, part)
        part.rename(target)


class _Reverse(torch.autograd.Function):
    """The identity, whose gradient is multiplied by `-ADVERSARIAL`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return -ADVERSARIAL * gradients[0]


def _reversed(x: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(_Reverse.apply(x))  # type: ignore[no-untyped-call]


def discriminator() -> nn.Module:
    """Return a network that separates patches of decoded images from those of renders."""
    layers: list[nn.Module] = []
    for before, after in pairwise((1, 16, 32, 64)):
        layers += [spectral_norm(nn.Conv3d(before, after, 4, 2, 1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, spectral_norm(nn.Conv3d(64, 1, 3, 1, 1)))


def _draw(cache: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return an unscaled latent `[1, 4, x, y, z]`, its image and its lesions `[1, 1, X, Y, Z]`."""
    file = random.choice(list((cache / "regenerated").glob("*.pt")))
    if random.random() < REGENERATED:
        regenerated = torch.load(file, weights_only=True)
        modalities, latents = regenerated["modalities"], regenerated["latents"]
    else:
        modalities = range(len(MODALITIES))
        latents = torch.load(cache / "latents" / file.name, weights_only=True)["clean"]
    names = [list(MODALITIES)[modality] for modality in modalities]
    (index,) = random.choices(range(len(names)), [FREQUENCIES[name] for name in names])
    latent = latents[index]
    mask, images, _ = data.load(cache / "subjects" / f"{file.stem}.npz")
    image = data.image(mask, images, names[index])
    lesion = np.isin(mask, (WMH, TUMOUR)).astype(np.float32)
    return latent[None], torch.from_numpy(image)[None, None], torch.from_numpy(lesion)[None, None]


def train(cache: Path, steps: int, device: str, network: Any) -> None:
    """Train the decoder of the autoencoder `network` for `steps`.

    A discriminator learns in the same steps. `decoder.pt` in `cache` holds the state, from which a
    run resumes.
    """
    network.requires_grad_(False)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(("decoder.", "post_quant_conv.")))
    critic = discriminator()
    both = nn.ModuleDict({"autoencoder": network, "discriminator": critic}).to(device)
    both.to(memory_format=FORMAT)  # type: ignore[call-overload]
    trainer = Trainer(both, steps, lr=1e-3, average=0.995)
    recent: deque[list[float]] = deque(maxlen=50)

    def loss() -> torch.Tensor:
        latent, image, lesion = (x.to(device) for x in _draw(cache))
        output = network.decode(latent.contiguous(memory_format=FORMAT)).float()
        error = output - image
        voxels = ((1 + LESION * lesion) * (error.abs() + 5 * error.square())).mean()
        gradient = gradient_error(output, image)
        coarse = gradient_error(output, image, COARSE)
        real = nn.functional.softplus(-critic(image)).mean()
        unreal = nn.functional.softplus(critic(_reversed(output.clamp_min(0)))).mean()
        recent.append([x.item() for x in (voxels, gradient, coarse, real, unreal)])
        sharp = SHARPNESS * gradient + COARSE_SHARPNESS * coarse
        return torch.as_tensor(voxels + sharp + real + unreal)

    def report() -> str:
        quality = held_out_quality(trainer.average.get_submodule("autoencoder"), cache, 1)
        losses = " ".join(f"{x:.4f}" for x in np.mean(recent, axis=0))
        return f"losses {losses} {numbers(quality)}"

    trainer.run(cache / "decoder.pt", loss, report, every=100)
