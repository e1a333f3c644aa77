"""Images painted from masks: a cheap stand-in for the renders of training."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.synthesis import MEANS

HERE = Path(__file__).parent


def held_out_masks() -> list[NDArray[np.uint8]]:
    """Return two masks `[96, 112, 96]` of heads."""
    files = sorted(HERE.glob("held_out_*.nii.gz"))
    return [np.asarray(nib.load(file).dataobj).astype(np.uint8) for file in files]


def moved(mask: NDArray[np.uint8], scale: float, shift: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return the mask enlarged by `scale` about its centre, then moved by `shift` voxels."""
    middle = (np.array(mask.shape) - 1) / 2
    offset = middle - (middle + shift) / scale
    return np.asarray(ndimage.affine_transform(mask, np.full(3, 1 / scale), offset, order=0))


def paint(mask: NDArray[np.uint8], contrast: int, seed: int = 0) -> NDArray[np.float32]:
    """Return a blurred image with a little noise; `contrast` is the index in CONTRASTS."""
    noise = np.random.default_rng(seed).standard_normal(mask.shape, np.float32)
    image = ndimage.gaussian_filter(MEANS[contrast][mask], 0.7)
    return np.where(mask == 0, 0, np.abs(image + 0.01 * noise)).astype(np.float32)
