"""Training of the mask networks' UNet by rectified flow, as in `flow`, conditioned on sizes."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from backends.maisi import anatomy, head_cleanup
from export import networks, reference, variant

from . import data, mask_autoencoder, mask_data
from .anatomy import TUMOUR
from .autoencoder import plain_norms
from .mask_quality import Draw
from .masks import LABELS, SIZES, bits, sizes
from .muon import Trainer

BATCH = 2
TUMOURS = 0.5  # share of masks with a tumour in the steps
# Additional weights of the latents of each of SIZES, which are few, and the factor of the learning
# rate of the layers that read the sizes. With neither, masks had the requested lesions, but the
# volumes of these lesions and of ventricles were random.
WEIGHTS = (12.0, 2.0, 8.0, 0.0)
FACTOR = 6.0
FORMAT = torch.channels_last_3d


@dataclass(frozen=True)
class Latents:
    """A mask: scaled latent `[4, x, y, z]`, its `sizes` `[4]`, and the weight `[1, x, y, z]`."""

    clean: torch.Tensor
    sizes: torch.Tensor
    weight: torch.Tensor


@torch.no_grad()
def encode(cache: Path) -> tuple[list[Latents], float]:
    """Return the latents of all training masks and of their mirror images, and the scale factor.

    The factor is 1 / standard deviation of the latents.
    """
    state = torch.load(cache / "mask_autoencoder.pt", weights_only=True)["average"]
    autoencoder = mask_autoencoder.build(state).eval()
    encoded = []
    for path in mask_data.paths(cache):
        mask = data.load_mask(path)
        for image in (mask, mask_data.mirrored(mask)):
            clean = autoencoder.encode(bits(torch.from_numpy(image)[None]))[0][0]
            encoded.append(Latents(clean, torch.from_numpy(sizes(image)), weights(image)))
    scale = float(1 / torch.stack([each.clean for each in encoded]).std())
    return [Latents(each.clean * scale, each.sizes, each.weight) for each in encoded], scale


def weights(mask: NDArray[np.uint8]) -> torch.Tensor:
    """Return the weights `[1, x, y, z]` of a mask's latent `[4, x, y, z]`, by WEIGHTS.

    A latent that only touches one of a structure has half the structure's weight.
    """
    pool = nn.functional.max_pool3d
    weight = torch.ones(1, *(side // 4 for side in mask.shape))
    for size, additional in zip(SIZES, WEIGHTS, strict=True):
        part = pool(torch.from_numpy(np.isin(mask, size.labels))[None].float(), 4)
        weight += additional / 2 * (part + pool(part, 3, 1, 1))
    return weight


def draw(masks: Sequence[Latents]) -> Latents:
    """Return a random mask, with a tumour in a share of TUMOURS if there are such masks."""
    tumour = random.random() < TUMOURS
    index = [size.labels[0] for size in SIZES].index(TUMOUR)
    return random.choice([m for m in masks if (m.sizes[index] >= 0) == tumour] or masks)


def build() -> Any:
    """Return mini's UNet of masks for training, with fresh weights."""
    return plain_norms(networks.build(variant.load("mini"), "mask_diffusion"))


def loss(unet: Any, masks: Sequence[Latents], device: str) -> torch.Tensor:
    """Return the weighted squared error of the velocity; timesteps are uniform in 0..1000."""
    clean = torch.stack([mask.clean for mask in masks]).to(device)
    weight = torch.stack([mask.weight for mask in masks]).to(device)
    context = torch.stack([mask.sizes for mask in masks]).to(device)[:, None]
    share = torch.rand(len(masks), 1, 1, 1, 1, device=device)
    noise = torch.randn_like(clean)
    noisy = ((1 - share) * clean + share * noise).contiguous(memory_format=FORMAT)
    error = unet(noisy, 1000 * share.flatten(), context=context).float() - (clean - noise)
    return torch.as_tensor((weight * error.square()).sum() / weight.sum() / clean.shape[1])


def train(cache: Path, steps: int, device: str, masks: list[Latents], scale: float) -> None:
    """Train for `steps` on the results of `encode`.

    `mask_flow.pt` in `cache` holds the state, from which a run resumes.
    """
    state_file = cache / "mask_flow.pt"
    unet = build().to(device)
    unet.to(memory_format=FORMAT)
    reading = [p for name, p in unet.named_parameters() if ".attn2." in name]
    trainer = Trainer(unet, steps, 2e-3, 0.995, reading, FACTOR)
    recent: deque[float] = deque(maxlen=200)

    def next_loss() -> torch.Tensor:
        error = loss(unet, [draw(masks) for _ in range(BATCH)], device)
        recent.append(error.item())
        return error

    trainer.run(state_file, next_loss, lambda: f"loss {np.mean(recent):.4f}", scale=scale)


def generate(
    nets: Any, requested: NDArray[np.float32], seed: int, steps: int = 30
) -> NDArray[np.uint8]:
    """Return the mask `[96, 112, 96]` of `requested` sizes `[4]`, with the server's cleanup.

    `nets` has the mask networks, as `networks.load` returns them.
    """
    serving = variant.load("mini").serving
    shape = [side // 4 for side in serving["mask_generation"]["size"]]
    noise = torch.randn(1, 4, *shape, generator=torch.Generator().manual_seed(seed)).numpy()
    sizes = requested.tolist()
    labels = reference.generated_labels(nets, iter([noise]), sizes, steps, LABELS, "rflow")
    lesions, volumes = anatomy.lesions(serving, sizes), anatomy.volumes(serving, sizes)
    return head_cleanup.clean(serving, labels, lesions, volumes, seed)


def drawing(checkpoints: Path) -> Draw:
    """Return the function that draws masks by the networks in the folder `checkpoints`."""
    nets = networks.load(variant.load("mini"), checkpoints)
    return lambda requested, seed: generate(nets, requested, seed)
