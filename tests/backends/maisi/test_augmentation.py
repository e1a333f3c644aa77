"""Tumours move within their organ and keep about their size; other labels stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from backends.maisi.augmentation import MOVES, augment, zoom

Mask = np.ndarray[Any, Any]
HEALTHY = np.arange(256, dtype=np.uint8)
HEALTHY[[23, 24, 26, 27, 128]] = 29, 4, 1, 62, 200
HOSTS = {23: 29, 24: 4, 26: 1, 27: 62, 128: 40}


def body(tumour: int | None) -> Mask:
    x, y, z = np.indices((64, 72, 56)) - np.array([32, 36, 28])[:, None, None, None]
    mask = np.where((x / 30) ** 2 + (y / 34) ** 2 < 1, 200, 0).astype(np.uint8)
    organ = (x / 22) ** 2 + (y / 25) ** 2 + (z / 20) ** 2 < 1
    mask[organ] = 1 if tumour is None else HOSTS[tumour]
    if tumour is not None:
        mask[((x - 3) / 5) ** 2 + (y / 6) ** 2 + (z / 4) ** 2 < 1] = tumour
    return mask


@pytest.mark.parametrize("tumour", MOVES)
def test_a_tumour_moves_within_its_organ(tumour: int) -> None:
    mask = body(tumour)
    original = mask.copy()
    augmented = [augment(mask, HEALTHY, seed) for seed in range(4)]
    assert (mask == original).all()
    size = (mask == tumour).sum()
    centres = []
    for result in augmented:
        lesion = result == tumour
        assert 0.7 * size < lesion.sum() < 1.8 * size
        assert np.isin(mask[lesion], (tumour, HOSTS[tumour])).all()
        vacated = (mask == tumour) & ~lesion
        assert (result[vacated] == HEALTHY[tumour]).all()
        assert (result[(mask != tumour) & ~lesion] == mask[(mask != tumour) & ~lesion]).all()
        centres.append(np.array(ndimage.center_of_mass(lesion)))
    distance = np.linalg.norm(np.ptp(centres, axis=0))
    assert distance > 1
    assert (augment(mask, HEALTHY, 2) == augmented[2]).all()


def test_a_tumour_at_a_face_may_stay_there() -> None:
    mask = body(26)
    mask = mask[:, :, 26:]  # through the tumour
    touching = [(augment(mask, HEALTHY, seed)[:, :, :2] == 26).sum() for seed in range(12)]
    assert any(touching)


def test_bone_lesions_keep_their_size_along_z() -> None:
    mask = np.full((48, 48, 64), 40, np.uint8)
    mask[18:30, 18:30, 17:48] = 128
    for seed in range(6):
        z = np.nonzero(augment(mask, HEALTHY, seed) == 128)[2]
        assert (z.min(), z.max()) == (17, 47)


def test_a_tumour_that_does_not_fit_its_organ_stays() -> None:
    mask = np.zeros((40, 40, 40), np.uint8)
    mask[18:22, 18:22, 18:22] = 23  # no lung around it
    augmented = augment(mask, HEALTHY, 0)
    assert (augmented == mask).mean() > 0.999


def test_a_body_without_tumour_is_zoomed() -> None:
    mask = body(None)
    augmented = augment(mask, HEALTHY, 0)
    assert set(np.unique(augmented)) == {0, 1, 200}
    assert 0.97 < (augmented == 1).sum() / (mask == 1).sum() < 1.035
    larger, smaller = zoom(mask, 1.1), zoom(mask, 0.9)
    assert (larger == 1).sum() == pytest.approx(1.1**3 * (mask == 1).sum(), rel=0.03)
    assert (smaller == 1).sum() == pytest.approx(0.9**3 * (mask == 1).sum(), rel=0.03)
    assert (smaller[:, :, [0, -1]] == smaller[:, :, [2, -3]]).all()  # the edge continues
    assert (smaller[:, :, 0] == 200).any()
    assert (zoom(mask, 1.0) == mask).all()
