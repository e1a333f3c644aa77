"""Smooth random fields, and the warps that are made of them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from .sources import SHAPE

LEAST_VOLUME = 0.25  # smallest Jacobian determinant of a warp, divided by the median


def _splines(size: int, cell: int) -> torch.Tensor:
    """Return the cubic B-splines every `cell` voxels at `size` voxels: `[size, knots]` float32."""
    knots = max(2, round(size / cell) + 1) + 2
    places = torch.linspace(1, knots - 2, size)
    distance = (places[:, None] - torch.arange(knots)).abs()
    outer = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, 2 / 3 - distance**2 + distance**3 / 2, outer)


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], cell: int, channels: int = 1
) -> torch.Tensor:
    """Return splines of normal values every `cell` voxels: `[channels, *shape]` float32.

    The variance is 1 on average over the voxels; two derivatives are continuous.
    """
    bases = [_splines(size, cell) for size in shape]
    variance = float(np.prod([float((base**2).sum(1).mean()) for base in bases]))
    knots = (channels, *(base.shape[1] for base in bases))
    values = torch.from_numpy(rng.standard_normal(knots, dtype=np.float32)) / variance**0.5
    x, y, z = bases
    values = torch.einsum("cijk,zk->cijz", values, z)
    values = torch.einsum("cijz,yj->ciyz", values, y)
    return torch.einsum("ciyz,xi->cxyz", values, x)


def least_volume(position: torch.Tensor) -> float:
    """Return the smallest Jacobian determinant of positions `[3, X, Y, Z]`, divided by the median.

    If it is above 0, the warp does not fold.
    """
    along_x, along_y, along_z = torch.gradient(position, dim=(1, 2, 3))
    volume = (along_x * torch.linalg.cross(along_y, along_z, dim=0)).sum(0)
    return float(volume.min() / volume.median())


def coordinates(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    spacing: float,
    atrophy: float,
    variation: float = 1.0,
) -> torch.Tensor:
    """Return the position of each voxel of a grid in the 1 mm head, in voxels: `[3, *shape]`.

    The grid has the shape `shape` and voxels of `spacing` mm. `atrophy`, 0..1, enlarges the
    ventricles. `variation`, 0..1, scales the deviations of rotation, size, position and warp.
    """
    angles = variation * rng.normal(0, 0.07, 3)
    zoom = rng.normal(1, variation * 0.05) * np.exp(variation * rng.normal(0, 0.035, 3))
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    matrix = torch.from_numpy((rotation * zoom).astype(np.float32) * spacing)
    moved = variation * rng.normal(0, 3, 3)
    centre = (np.array(SHAPE, np.float32) - 1) / 2 + moved.astype(np.float32)
    x, y, z = (torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in shape)
    straight = (
        torch.from_numpy(centre).view(3, 1, 1, 1)
        + matrix[:, 0].view(3, 1, 1, 1) * x.view(-1, 1, 1)
        + matrix[:, 1].view(3, 1, 1, 1) * y.view(-1, 1)
        + matrix[:, 2].view(3, 1, 1, 1) * z
    )
    warp = 3.3 * smooth_noise(rng, shape, 36, 3) + 1.15 * smooth_noise(rng, shape, 14, 3)
    warp *= variation
    # Ventricles grow or shrink: a shift towards their centre that decays over 22 mm. The least
    # volume is (1 + shift)**3, which is 0.27 for the strongest and so above LEAST_VOLUME.
    shift = float(rng.uniform(-0.15, 0.25)) - 0.2 * atrophy
    middle = torch.tensor([90.0, 112.0, 84.0]).view(3, 1, 1, 1)

    def warped(step: int, amplitude: float) -> torch.Tensor:
        every = (slice(None), *(slice(None, None, step),) * 3)
        position = torch.add(straight[every], warp[every], alpha=amplitude)
        offset = position - middle
        decay = torch.exp(-offset.square().sum(0) / (2 * 22**2))
        return position.addcmul_(offset, decay[None], value=shift)

    amplitude = 1.0
    while least_volume(warped(3, amplitude)) < LEAST_VOLUME:  # every third voxel shows folds
        amplitude *= 0.85
    return warped(1, amplitude)


def sample(volumes: list[NDArray[np.int8]], position: torch.Tensor) -> torch.Tensor:
    """Return `volumes` at `position` `[3, X, Y, Z]` in voxels, linear: `[volumes, X, Y, Z]`."""
    stacked = torch.from_numpy(np.stack(volumes)).float()[None]
    size = torch.tensor(SHAPE, dtype=torch.float32)
    # grid_sample wants -1..1, and the last axis first
    grid = torch.stack([2 * position[i] / (size[i] - 1) - 1 for i in (2, 1, 0)], dim=-1)[None]
    return torch.nn.functional.grid_sample(stacked, grid, align_corners=True)[0]
