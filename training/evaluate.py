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

from . import data, image_only
from .autoencoder import plain_norms, psnr, sharpness
from .fidelity import lesion_contrast, tissue_dice
from .flow import Pair
from .synthesis import CONTRASTS, MODALITIES, SIZE, SPACING, without_head

Volume = NDArray[np.float32]
SEEDS = {name: range(1, 21 if name == "mri_t1" else 6) for name in CONTRASTS}


@torch.no_grad()
def generate(
    pair: Pair,
    autoencoder: Any,
    scale: float,
    mask: NDArray[np.uint8] | None,
    modality: str,
    spacing: float,
    seed: int,
    steps: int = 30,
) -> Volume:
    """Return a volume `[X, Y, Z]`, about 0..1, by MONAI's scheduler and one decode of the whole.

    Without a mask its size is `SIZE`.
    """
    embedding = None if mask is None else pair.embed(torch.from_numpy(mask)[None])
    generator = torch.Generator().manual_seed(seed)
    shape = [n // 4 for n in (SIZE if mask is None else mask.shape)]
    latent = torch.randn(1, 4, *shape, generator=generator)
    scheduler = RFlowScheduler(use_discrete_timesteps=False, use_timestep_transform=True)
    scheduler.set_timesteps(steps, input_img_size_numel=int(np.prod(shape)))
    label, mm100 = torch.tensor([MODALITIES[modality]]), torch.full((1, 3), 100 * spacing)
    times = scheduler.timesteps
    for t, next_t in zip(times, [*times[1:], torch.tensor(0)], strict=True):
        velocity = pair(latent, torch.tensor([float(t)]), label, mm100, embedding)
        latent, _ = scheduler.step(velocity, t, latent, next_t)
    return np.asarray(autoencoder.decode(latent / scale)[0, 0].clamp_min(0).numpy())


def _load(checkpoints: Path) -> tuple[Pair, Any, float]:
    """Return UNet and ControlNet, the autoencoder, and the scale factor of latents."""
    nets = networks.load(variant.load("mini"), checkpoints)
    pair = Pair().eval()
    pair.load(nets)
    return pair, plain_norms(nets.autoencoder), nets.scale_factor


def _mean(values: list[float]) -> float | None:
    return round(float(np.mean(values)), 3) if values else None


@torch.no_grad()
def measure(cache: Path, checkpoints: Path, subjects: int, names: list[str]) -> dict[str, Any]:
    """Return modality -> metric -> mean over held-out subjects; MODEL_CARD.md defines them."""
    pair, autoencoder, scale = _load(checkpoints)
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
            generated = generate(pair, autoencoder, scale, condition, name, spacing, seed=index)
            scores["psnr"].append(psnr(torch.from_numpy(reconstruction), image[0, 0]))
            scores["ssim"].append(
                float(structural_similarity(reconstruction, render, data_range=1.0))
            )
            for key, volume in (("autoencoder", reconstruction), ("generated", generated)):
                sharp = sharpness(torch.from_numpy(volume)[None, None], image)
                scores[f"{key}_sharpness"].append(sharp)
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


@torch.no_grad()
def measure_alone(cache: Path, checkpoints: Path) -> dict[str, list[dict[str, Any]]]:
    """Return name -> results of `image_only.measure`, of held-out renders and maskless volumes."""
    pair, autoencoder, scale = _load(checkpoints)
    reference = image_only.build(data.paths(cache))
    renders = [data.load(path) for path in data.paths(cache, held_out=True)]
    rows: dict[str, list[dict[str, Any]]] = {}
    for name in CONTRASTS:
        rows[f"{name}, renders"] = [
            image_only.measure(data.image(mask, images, name), name, reference, spacing)
            for mask, images, spacing in renders
        ]
        rows[f"{name}, generated"] = [
            image_only.measure(
                generate(pair, autoencoder, scale, None, name, SPACING, seed),
                name,
                reference,
                SPACING,
            )
            for seed in SEEDS[name]
        ]
        print(image_only.table(rows), flush=True)
    return rows


def markdown(table: dict[str, Any]) -> str:
    """Return the table of MODEL_CARD.md."""
    rows = [
        "| modality | PSNR | SSIM | sharpness | sharpness generated | Dice render "
        "| Dice autoencoder | Dice generated | share | Dice shuffled | lesion render "
        "| lesion generated |",
        "|---" * 12 + "|",
    ]
    for name, q in table.items():
        share = q["generated_dice"] / q["autoencoder_dice"]
        lesion = [q.get(f"{key}_lesion") for key in ("render", "generated")]
        cells = [
            *(f"{q['psnr']:.1f}", f"{q['ssim']:.2f}", f"{q['autoencoder_sharpness']:.2f}"),
            *(f"{q['generated_sharpness']:.2f}", f"{q['render_dice']:.2f}"),
            *(f"{q['autoencoder_dice']:.2f}", f"{q['generated_dice']:.2f}", f"{share:.2f}"),
            f"{q['shuffled_dice']:.2f}",
            *("" if value is None else f"{1000 * value:.0f}" for value in lesion),
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)
