"""Multi-scale structural similarity of two volumes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .blocks import block_means

# The weights of Wang, Simoncelli, Bovik: Multi-scale structural similarity, Asilomar 2003.
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_STABLE = 0.01**2, 0.03**2  # squares of K1 and K2 of Wang et al. 2004, for grey levels 0 to 1
_SIGMA, _RADIUS = 1.5, 3  # voxels; the Gaussian window has 7 voxels along each side


def ms_ssim(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> float:
    """Return the multi-scale structural similarity of two volumes `[X, Y, Z]`, grey levels 0 to 1.

    Equal volumes have 1. Of the five scales, those are used at which the window fits into the
    volume; their weights are scaled to the sum 1. Raises ValueError if a side has less than 7
    voxels.
    """
    smallest = min(one.shape)
    scales = sum(smallest // 2**scale >= 2 * _RADIUS + 1 for scale in range(len(_WEIGHTS)))
    if not scales:
        raise ValueError(f"the volume's sides are {list(one.shape)}; at least 7 are expected")
    weights = np.array(_WEIGHTS[:scales]) / sum(_WEIGHTS[:scales])
    x, y = one.astype(np.float32), other.astype(np.float32)
    result = 1.0
    for scale, weight in enumerate(weights):
        luminance, contrast = _ssim(x, y)
        value = luminance if scale == scales - 1 else contrast
        result *= max(value, 0.0) ** weight
        if scale < scales - 1:
            x, y = block_means(x, 2), block_means(y, 2)
    return float(result)


def _ssim(x: NDArray[np.float32], y: NDArray[np.float32]) -> tuple[float, float]:
    """Return the means of the structural similarity and of its contrast-structure factor."""
    mx, my = _mean(x), _mean(y)
    vx, vy, cov = _mean(x * x) - mx * mx, _mean(y * y) - my * my, _mean(x * y) - mx * my
    c1, c2 = _STABLE
    contrast = (2 * cov + c2) / (vx + vy + c2)
    luminance = (2 * mx * my + c1) / (mx * mx + my * my + c1)
    return float((luminance * contrast).mean()), float(contrast.mean())


def _mean(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return local means at the voxels where the window fits into the volume."""
    soft = ndimage.gaussian_filter(volume, _SIGMA, radius=_RADIUS)
    return np.asarray(soft[(slice(_RADIUS, -_RADIUS),) * volume.ndim])
