"""Volumes and masks as MONAI's networks and scheduler make them, beside the server's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from export import networks, reference
from export.arrays import Array
from export.variant import Variant
from tests.parity.conftest import Caller

SEED, STEPS, SPACING = 2**40 + 7, 4, (1.5, 2.0, 0.9)


def compare(
    variant: Variant,
    checkpoints: Path,
    caller: Caller,
    case: tuple[tuple[int, int, int], float, bool],
    make_mask: Callable[..., Array],
    modality: str = "mri_flair",
    regions: tuple[str, str] | None = None,
    strength: float | None = None,
) -> None:
    """Generate both ways from the same noise; at most one level apart on 99.9 % of voxels.

    With a `strength`, from the same image.
    """
    shape, guidance, masked = case
    serving = variant.serving
    multiple = serving["size"]["multiple"]
    padded = tuple(-(-side // multiple) * multiple for side in shape)
    noise = np.random.default_rng(1).standard_normal((1, 4, *(s // 4 for s in padded)), np.float32)
    x, y, z = shape
    inputs: dict[str, Any] = {"size": np.array(shape, np.int32)}
    grid = healthy = None
    if masked:
        inputs = {"mask": make_mask(*shape)}
        grid = np.zeros(padded, np.uint8)
        grid[:x, :y, :z] = inputs["mask"]
        healthy = grid.copy()
        for lesion, organ in serving["lesions"].items():
            healthy[grid == int(lesion)] = organ
        if "lesion_neighbours" in serving:
            healthy[grid == 23] = 28  # see CT: its lobes are 28 and, rarer, 30
    keywords: dict[str, Any] = {}
    if strength is not None:
        source = np.random.default_rng(2).gamma(2, 200, shape).astype(np.float32)
        inputs = {key: inputs[key] for key in inputs if key != "size"}
        inputs |= {"source": source, "strength": np.array([strength], np.float32)}
        keywords = {
            "source": np.pad(
                unit(serving, source), [(0, p - s) for p, s in zip(padded, shape, strict=True)]
            )
        }
        keywords["strength"] = strength
    image, report = caller.volume(
        **inputs,
        latent=noise,
        seed=np.array([SEED]),
        steps=np.array([STEPS], np.int32),
        guidance=np.array([guidance], np.float32),
        spacing=np.array(SPACING, np.float32),
        modality=np.array([modality.encode()], object),
    )
    loaded = networks.load(variant, checkpoints)
    rows: dict[str, Any] = {"spacing_tensor": SPACING}
    if loaded.diffusion_unet.num_class_embeds is not None:
        rows["class_labels"] = [serving["modalities"][modality]]
    if regions is not None:
        assert (report["top_region"], report["bottom_region"]) == regions
        for end, region in zip(("top", "bottom"), regions, strict=True):
            names = ["head", "chest", "abdomen", "lower"]
            rows[f"{end}_region_index_tensor"] = [float(name == region) for name in names]
    fresh = reference.fresh_noise(SEED, noise.shape) if serving["solvers"] == ["ddpm"] else None
    truth = reference.volume(loaded, noise, rows, STEPS, guidance, fresh, grid, healthy, **keywords)
    low, high = (-1000, 1000) if modality == "ct" else (0, 1000)
    truth = truth[:x, :y, :z].clip(0, 1 if modality == "ct" else None) * (high - low) + low
    if masked:
        truth[inputs["mask"] == 0] = low
    assert image.shape == shape
    assert image.dtype == np.int16
    assert report["masked"] == masked
    assert truth.std() > 10, "the reference is flat: it could not tell right from wrong"
    assert (np.abs(image - truth) <= 1).mean() >= 0.999


def unit(serving: dict[str, Any], source: Array) -> Array:
    """Put grey levels onto 0..1 as upstream's transforms do."""
    scale = serving["intensity"]
    low, high = scale["min"], scale["max"]
    if "percentile" in scale:
        low, high = np.percentile(source, 0), np.percentile(source, scale["percentile"])
    levels = (source - low) / (high - low)
    return (levels.clip(0, 1) if scale["clip_above"] else levels.clip(0)).astype(np.float32)
