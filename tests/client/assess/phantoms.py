"""Small heads: held-out masks, warped and painted as renders are, and damage done to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tests.training.painted import held_out_masks
from training.synthesis import MEANS

Greys: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.uint8]
Damage: TypeAlias = Callable[[Greys, np.random.Generator], Greys]

SHAPE = (36, 42, 36)
SPACING = 16 / 3  # mm


@lru_cache
def _heads() -> list[Labels]:
    return held_out_masks()


def smooth(rng: np.random.Generator, sigma: float, shape: Sequence[int] = SHAPE) -> Greys:
    """Return smooth noise of standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma, mode="wrap")
    return np.asarray(noise / noise.std(), np.float32)


@lru_cache(maxsize=64)
def subject(seed: int) -> tuple[Greys, Labels]:
    """Return a head of its own form at 5.3 mm: T1 greys, 0 to about 1, and labels."""
    rng = np.random.default_rng(seed)
    mask = _heads()[rng.integers(2)]
    stretch = np.diag(rng.normal(1, 0.06, 3)) + rng.normal(0, 0.03, (3, 3))
    grid = np.indices(SHAPE, np.float32)
    centred = grid.reshape(3, -1) - (np.array(SHAPE)[:, None] - 1) / 2
    place = (SPACING / 2 * stretch @ centred).reshape(3, *SHAPE)
    place += np.stack([2.5 * smooth(rng, 5) for _ in range(3)])
    place += ((np.array(mask.shape) - 1) / 2).reshape(3, 1, 1, 1) + rng.normal(0, 2, (3, 1, 1, 1))
    labels = np.asarray(ndimage.map_coordinates(mask, place, order=0), np.uint8)
    return paint(labels, 0, rng), labels


def paint(labels: Labels, contrast: int, rng: np.random.Generator) -> Greys:
    """Return a picture of labels with its own means, bias field and noise."""
    table = MEANS[contrast] * rng.normal(1, 0.05, 256).astype(np.float32)
    image = ndimage.gaussian_filter(table[labels], 0.5)
    image *= np.exp(0.06 * smooth(rng, 10, labels.shape))
    noise = rng.normal(0, 0.01, (2, *labels.shape)).astype(np.float32)
    return np.asarray(np.hypot(image + noise[0], noise[1]), np.float32)


def blurred(image: Greys, rng: np.random.Generator) -> Greys:
    return np.asarray(ndimage.gaussian_filter(image, 0.9))


def noisy(image: Greys, rng: np.random.Generator) -> Greys:
    return np.asarray(np.abs(image + rng.normal(0, 0.05, image.shape)), np.float32)


def copied(image: Greys, rng: np.random.Generator) -> Greys:
    """Return a picture that is warped by some 3 mm and noisy."""
    place = np.indices(image.shape, np.float32)
    place += np.stack([0.5 * smooth(rng, 6, image.shape) for _ in range(3)])
    place += rng.normal(0, 1, (3, 1, 1, 1))
    warped = ndimage.map_coordinates(image, place, order=1)
    return np.asarray(np.abs(warped + rng.normal(0, 0.02, image.shape)), np.float32)


def save(image: Greys, path: Path, spacing: float = SPACING) -> None:
    """Write greys as the server makes them: int16, 0 to 1000."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = nib.Nifti1Image(np.rint(1000 * image).astype(np.int16), _affine(spacing))
    nib.save(picture, path)


def save_labels(labels: Labels, path: Path, spacing: float = SPACING) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, _affine(spacing)), path)


def _affine(spacing: float) -> NDArray[np.float64]:
    return np.diag([spacing, spacing, spacing, 1.0])


def dataset(
    folder: Path,
    seeds: Sequence[int],
    damage: Damage | None = None,
    *,
    labelled: bool = True,
    shuffled: bool = False,
) -> Path:
    """Write a `plain` dataset of subjects by their seeds; if `shuffled`, the masks are others'."""
    pairs = [subject(seed) for seed in seeds]
    for number, seed in enumerate(seeds):
        image, labels = pairs[number]
        if damage is not None:
            image = damage(image, np.random.default_rng(10_000 + seed))
        save(image, folder / "images" / f"case_{number:04}.nii.gz")
        other = pairs[(number + 1) % len(pairs)][1] if shuffled else labels
        if labelled:
            save_labels(other, folder / "labels" / f"case_{number:04}.nii.gz")
    return folder
