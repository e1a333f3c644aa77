"""Affine alignment of two volumes by least squares of their grey levels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .blocks import block_means

Volume = NDArray[np.float32]

_STEPS = ((4, 10), (2, 10))  # for each coarser grid: its spacing in voxels, Gauss-Newton steps
_DAMPING = 1e-3
_SHOWN = 0.1  # grey level, 0 to 1, above the noise of the background


def residual(fixed: Volume, moving: Volume) -> float:
    """Return 1 - correlation of two volumes `[X, Y, Z]` after the best affine alignment.

    The result is 0 for volumes that are equal up to an affine map of space and of grey levels. A
    voxel counts if at least one of the volumes is above the background there.
    """
    aligned = align(fixed, moving)
    return unlikeness(fixed, aligned)


def unlikeness(one: Volume, other: Volume) -> float:
    """Return 1 - correlation of two volumes over the voxels where either exceeds the background."""
    shown = (one > _SHOWN) | (other > _SHOWN)
    if shown.sum() < 8:
        return 1.0
    x, y = one[shown] - one[shown].mean(), other[shown] - other[shown].mean()
    scale = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return 1 - float((x * y).sum()) / scale if scale > 0 else 1.0


def align(fixed: Volume, moving: Volume) -> Volume:
    """Return `moving` on the grid of `fixed` `[X, Y, Z]`, aligned by an affine map.

    The method is Gauss-Newton on the sum of squared differences, with a gain and an offset of the
    grey levels, on grids with a quarter and then half of the voxels along each side.
    """
    matrix = np.eye(3, 4)  # relative to the centre, in voxels of the full grid
    for factor, steps in _STEPS:
        small = [block_means(volume, factor) for volume in (fixed, moving)]
        matrix[:, 3] /= factor
        matrix = _refine(small[0], small[1], matrix, steps)
        matrix[:, 3] *= factor
    return _moved(moving, matrix)


def _refine(
    fixed: Volume, moving: Volume, matrix: NDArray[np.float64], steps: int
) -> NDArray[np.float64]:
    centre = (np.array(fixed.shape) - 1) / 2
    grid = np.indices(fixed.shape, np.float32).reshape(3, -1) - centre[:, None]
    homogeneous = np.concatenate([grid, np.ones((1, grid.shape[1]))])
    best, least = matrix, np.inf
    for _ in range(steps):
        moved = _moved(moving, matrix)
        slope, offset = _grey_fit(moved, fixed)
        error = (fixed - slope * moved - offset).ravel()
        cost = float(error @ error)
        if cost >= least * (1 - 1e-5):
            break
        best, least = matrix, cost
        # Chain rule: the gradient of the moved volume is the moving volume's times the matrix.
        gradient = np.stack(np.gradient(moved)).reshape(3, -1)
        linear = np.linalg.solve(matrix[:, :3].T, gradient)
        jacobian = slope * (linear[:, None] * homogeneous[None]).reshape(12, -1)
        normal = jacobian @ jacobian.T
        normal += _DAMPING * np.diag(np.diag(normal) + 1e-9)
        matrix = matrix + np.linalg.solve(normal, jacobian @ error).reshape(3, 4)
    return best


def _moved(volume: Volume, matrix: NDArray[np.float64]) -> Volume:
    centre = (np.array(volume.shape) - 1) / 2
    offset = centre + matrix[:, 3] - matrix[:, :3] @ centre
    moved: Volume = ndimage.affine_transform(volume, matrix[:, :3], offset, order=1)
    return moved


def _grey_fit(moved: Volume, fixed: Volume) -> tuple[float, float]:
    """Return the gain and offset that fit the grey levels of `moved` to those of `fixed`."""
    x, y = moved.ravel().astype(np.float64), fixed.ravel().astype(np.float64)
    variance = float(x.var())
    slope = float(((x - x.mean()) * (y - y.mean())).mean()) / variance if variance > 1e-9 else 1.0
    return slope, float(y.mean() - slope * x.mean())
