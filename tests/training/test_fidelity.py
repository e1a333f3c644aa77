"""Volumes of the shipped weights, from a real server, show the anatomy of their mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from maisi_client import Client

from training.fidelity import lesion_contrast, tissue_dice

HERE = Path(__file__).parent
MASKS = [HERE / f"held_out_{seed}.nii.gz" for seed in (100000, 100001)]
MARGIN = 0.15  # of mean Dice, over the mask of another head


def labels(path: Path) -> Any:
    return np.asarray(nib.load(path).dataobj)


def slabs() -> tuple[Any, Any]:
    """Return a volume of three slabs with known intensities, and its mask."""
    mask = np.repeat(np.array([131, 22, 227], np.uint8), 8)[:, None, None] * np.ones(
        (1, 8, 8), np.uint8
    )
    volume = np.select([mask == 131, mask == 22], [0.1, 0.5], 0.8)
    return volume, mask


def test_dice_is_one_for_a_perfect_volume() -> None:
    volume, mask = slabs()
    assert set(tissue_dice(volume, mask, "mri_t1").values()) == {1.0}


def test_dice_follows_the_order_of_tissues_in_a_contrast() -> None:
    volume, mask = slabs()
    assert tissue_dice(1 - volume, mask, "mri_t2")["csf"] == 1.0
    assert tissue_dice(1 - volume, mask, "mri_t1")["csf"] == 0.0


def test_lesion_contrast_is_lesion_less_its_mirror() -> None:
    mask = np.full((20, 20, 20), 227, np.uint8)
    mask[2:7, 8:13, 8:13] = 150
    volume = np.where(mask == 150, 900, 300)
    volume[13:18, 8:13, 8:13] = 400
    assert lesion_contrast(volume, mask) == 500
    assert lesion_contrast(volume, np.full_like(mask, 227)) is None
    mask[13:18, 8:13, 8:13] = 150  # its mirror image is a lesion too
    assert lesion_contrast(volume, mask) is None


@pytest.mark.parametrize("modality", ["mri_t1", "mri_t2", "mri_flair", "mri_swi"])
def test_a_volume_shows_its_own_mask_and_not_another(server: Any, modality: str) -> None:
    with Client(server.grpc) as client:
        volume = client.generate(MASKS[0], modality=modality, seed=1, steps=8)
    image = np.asarray(volume.image.dataobj)
    own_dice = np.mean(list(tissue_dice(image, labels(MASKS[0]), modality).values()))
    other_dice = np.mean(list(tissue_dice(image, labels(MASKS[1]), modality).values()))
    assert own_dice > other_dice + MARGIN
