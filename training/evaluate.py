"""Quality of the trained networks on held-out masks: the tables of MODEL_CARD.md."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.schedulers.rectified_flow import RFlowScheduler
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from export import networks, variant

from . import data
from .autoencoder import plain_norms, psnr
from .fidelity import lesion_contrast, tissue_dice
from .flow import Pair
from .synthesis import MODALITIES, without_head

Volume = NDArray[np.float32]


@torch.no_grad()
def generate(
    pair: Pair,
    autoencoder: Any,
    scale: float,
    mask: NDArray[np.uint8],
    modality: str,
    spacing: float,
    seed: int,
    steps: int = 30,
) -> Volume:
    """Return a volume `[X, Y, Z]`, 0..1, sampled with MONAI's scheduler and decoded as a whole."""
    embedding = pair.embed(torch.from_numpy(mask)[None])
    generator = torch.Generator().manual_seed(seed)
    shape = [n // 4 for n in mask.shape]
    latent = torch.randn(1, 4, *shape, generator=generator)
    scheduler = RFlowScheduler(use_discrete_timesteps=False, use_timestep_transform=True)
    scheduler.set_timesteps(steps, input_img_size_numel=int(np.prod(shape)))
    label, mm100 = torch.tensor([MODALITIES[modality]]), torch.full((1, 3), 100 * spacing)
    times = scheduler.timesteps
    for t, next_t in zip(times, [*times[1:], torch.tensor(0)], strict=True):
        velocity = pair(latent, torch.tensor([float(t)]), label, mm100, embedding)
        latent, _ = scheduler.step(velocity, t, latent, next_t)
    return np.asarray(autoencoder.decode(latent / scale)[0, 0].clamp_min(0).numpy())


def _mean(values: list[float]) -> float | None:
    return round(float(np.mean(values)), 3) if values else None


@torch.no_grad()
def measure(cache: Path, checkpoints: Path, subjects: int, names: list[str]) -> dict[str, Any]:
    """Return modality -> metric -> mean over held-out subjects; MODEL_CARD.md defines them."""
    nets = networks.load(variant.load("mini"), checkpoints)
    pair = Pair().eval()
    pair.load(nets)
    autoencoder: Any = plain_norms(nets.autoencoder)
    files = data.paths(cache, held_out=True)[:subjects]
    held_out = [data.load(path) for path in files]
    table: dict[str, Any] = {}
    for name in names:
        scores: dict[str, list[float]] = defaultdict(list)
        for index, (mask, images, spacing) in enumerate(held_out):
            other = held_out[(index + 1) % len(held_out)][0]
            render = data.image(mask, images, name)
            condition = without_head(mask) if "stripped" in name else mask
            image = torch.from_numpy(render)[None, None]
            decoded = autoencoder.decode(autoencoder.encode(image)[0]).clamp_min(0)
            reconstruction = decoded[0, 0].numpy()
            generated = generate(
                pair, autoencoder, nets.scale_factor, condition, name, spacing, seed=index
            )
            scores["psnr"].append(psnr(torch.from_numpy(reconstruction), image[0, 0]))
            scores["ssim"].append(
                float(structural_similarity(reconstruction, render, data_range=1.0))
            )
            for key, volume, against in (
                ("render", render, mask),
                ("autoencoder", reconstruction, mask),
                ("generated", generated, mask),
                ("shuffled", generated, other),
            ):
                dice = tissue_dice(volume, against, name)
                for tissue, value in dice.items():
                    scores[f"{key}_{tissue}"].append(value)
                scores[f"{key}_dice"].append(float(np.mean(list(dice.values()))))
            for key, volume in (("render", render), ("generated", generated)):
                contrast = lesion_contrast(volume, mask)
                if contrast is not None:
                    scores[f"{key}_lesion"].append(contrast)
        table[name] = {key: _mean(values) for key, values in scores.items()}
        print(name, json.dumps(table[name]), flush=True)
    return table


def markdown(table: dict[str, Any]) -> str:
    """Return the table of MODEL_CARD.md."""
    rows = [
        "| modality | PSNR | SSIM | Dice render | Dice autoencoder | Dice generated | share "
        "| Dice shuffled | lesion render | lesion generated |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, q in table.items():
        share = q["generated_dice"] / q["autoencoder_dice"]
        lesion = [q.get(f"{key}_lesion") for key in ("render", "generated")]
        cells = [
            *(f"{q['psnr']:.1f}", f"{q['ssim']:.2f}", f"{q['render_dice']:.2f}"),
            *(f"{q['autoencoder_dice']:.2f}", f"{q['generated_dice']:.2f}", f"{share:.2f}"),
            f"{q['shuffled_dice']:.2f}",
            *("" if value is None else f"{1000 * value:.0f}" for value in lesion),
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)
