"""Masks and renders: a head is warped, lesions are added, and a contrast is rendered.

The generative model follows SynthSeg (Billot et al., Medical Image Analysis 2023): intensities per
label, a smooth bias field, noise; unlike in SynthSeg the means are those of a real contrast. A
render is computed on a grid twice as fine as the mask and averaged, so that its edges have partial
volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from . import anatomy as a
from .anatomy import Labels

SIZE = (96, 112, 96)
SPACING = 2.0  # mm
MODALITIES = {
    "mri_t1": 9,
    "mri_t2": 10,
    "mri_flair": 11,
    "mri_swi": 20,
    "mri_t1_skull_stripped": 29,
    "mri_t2_skull_stripped": 30,
    "mri_flair_skull_stripped": 31,
    "mri_swi_skull_stripped": 32,
}
CONTRASTS = tuple(MODALITIES)[:4]
OUTSIDE = (a.SKULL, a.MUSCLE, a.FAT, a.SKIN)
FLUID = (a.CSF, a.THIRD, a.FOURTH, *a.PAIRS["lateral_ventricle"])
WHITE = a.PAIRS["white"]
FLIP = np.arange(256, dtype=np.uint8)
for _right, _left in a.PAIRS.values():
    FLIP[_right], FLIP[_left] = _left, _right

# Mean intensity, 1 is very bright; columns T1, T2, FLAIR, SWI. Set by eye to the order of tissues
# in clinical 3 T images; not measured.
_MEANS: dict[int | tuple[int, ...], tuple[float, float, float, float]] = {
    FLUID: (0.14, 0.92, 0.12, 0.82),
    a.GREY: (0.52, 0.58, 0.62, 0.62),
    a.PAIRS["cerebellum"]: (0.52, 0.58, 0.60, 0.62),
    WHITE: (0.84, 0.34, 0.38, 0.42),
    a.PAIRS["cerebellum_white"]: (0.82, 0.36, 0.40, 0.43),
    a.STEM: (0.76, 0.42, 0.45, 0.46),
    a.PAIRS["caudate"]: (0.56, 0.52, 0.58, 0.40),
    a.PAIRS["putamen"]: (0.60, 0.47, 0.54, 0.34),
    a.PAIRS["pallidum"]: (0.70, 0.32, 0.40, 0.20),
    a.PAIRS["thalamus"]: (0.67, 0.46, 0.52, 0.50),
    a.PAIRS["hippocampus"]: (0.53, 0.60, 0.66, 0.60),
    a.PAIRS["amygdala"]: (0.54, 0.60, 0.66, 0.60),
    a.WMH: (0.60, 0.68, 0.98, 0.56),
    a.TUMOUR: (0.38, 0.78, 0.90, 0.52),
    a.SKULL: (0.07, 0.06, 0.06, 0.05),
    a.SKIN: (0.58, 0.36, 0.36, 0.32),
    a.FAT: (0.96, 0.80, 0.70, 0.55),
    a.MUSCLE: (0.36, 0.20, 0.24, 0.30),
}
MEANS = np.zeros((4, 256), np.float32)
for _ids, _row in _MEANS.items():
    MEANS[:, list(_ids) if isinstance(_ids, tuple) else [_ids]] = np.array(_row)[:, None]


@dataclass(frozen=True)
class Subject:
    """A warped head: `fine` `[2X, 2Y, 2Z]` and `mask` `[X, Y, Z]`, uint8 labels; spacing in mm."""

    fine: Labels
    mask: Labels
    spacing: float


def _smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], cell: int, channels: int = 1
) -> torch.Tensor:
    """Return unit normal values every `cell` voxels, interpolated: `[channels, *shape]` float32."""
    coarse = [max(2, round(n / cell) + 1) for n in shape]
    values = torch.from_numpy(rng.standard_normal((1, channels, *coarse), dtype=np.float32))
    return torch.nn.functional.interpolate(
        values, size=tuple(shape), mode="trilinear", align_corners=True
    )[0]


def _coordinates(rng: np.random.Generator, spacing: float) -> list[torch.Tensor]:
    """Return for each voxel of the fine grid its position in the 1 mm head, in voxels."""
    fine = tuple(2 * n for n in SIZE)
    angles = rng.normal(0, 0.07, 3)
    zoom = rng.normal(1, 0.05) * np.exp(rng.normal(0, 0.025, 3))
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    matrix = (rotation * zoom).astype(np.float32) * spacing / 2
    centre = (np.array(a.SHAPE, np.float32) - 1) / 2 + rng.normal(0, 3, 3).astype(np.float32)
    grids = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in fine]
    warp = 4.0 * _smooth_noise(rng, fine, 36, 3) + 1.4 * _smooth_noise(rng, fine, 14, 3)
    position = []
    for row in range(3):
        p = centre[row] + warp[row]
        for column, grid in enumerate(grids):
            shape = [1, 1, 1]
            shape[column] = -1
            p = p + float(matrix[row, column]) * grid.view(shape)
        position.append(p)
    # ventricles grow or shrink: a shift towards their centre that decays over 22 mm
    middle = torch.tensor([90.0, 112.0, 84.0])
    offsets = [p - m for p, m in zip(position, middle, strict=True)]
    decay = torch.exp(-sum((o / 22) ** 2 for o in offsets) / 2)
    shift = float(rng.uniform(-0.45, 0.25))
    return [p + shift * decay * o for p, o in zip(position, offsets, strict=True)]


def _add_lesions(rng: np.random.Generator, labels: Labels) -> None:
    """Add, in place, white matter hyperintensities near the ventricles and at most one tumour."""
    white = np.isin(labels[::2, ::2, ::2], WHITE)
    if rng.random() < 0.7:
        fluid = np.isin(labels[::2, ::2, ::2], a.PAIRS["lateral_ventricle"])
        near = white & (ndimage.distance_transform_edt(~fluid) < rng.uniform(4, 14))
        texture = _smooth_noise(rng, near.shape, int(rng.integers(4, 8)))[0].numpy()
        wmh = near & (texture > rng.uniform(0.5, 1.2))
        fine = wmh.repeat(2, 0).repeat(2, 1).repeat(2, 2)
        labels[fine & np.isin(labels, WHITE)] = a.WMH
    if rng.random() < 0.35:
        spots = np.argwhere(white)
        centre = 2 * spots[rng.integers(len(spots))]
        radius = rng.uniform(7, 18)  # fine voxels of about 1 mm
        low = np.maximum(centre - 30, 0).astype(int)
        box = tuple(slice(lo, c + 30) for lo, c in zip(low, centre, strict=True))
        part = labels[box]
        grid = np.indices(part.shape, dtype=np.float32)
        distance = np.sqrt(
            sum((g - c + lo) ** 2 for g, c, lo in zip(grid, centre, low, strict=True))
        )
        edge = radius * (1 + 0.25 * _smooth_noise(rng, part.shape, 8)[0].numpy())
        inside = (distance < edge) & (part != 0) & ~np.isin(part, OUTSIDE)
        part[inside] = a.TUMOUR


def _majority(fine: Labels) -> Labels:
    """Return the most frequent label of each 2x2x2 block: `[2X, 2Y, 2Z]` -> `[X, Y, Z]`."""
    x, y, z = (n // 2 for n in fine.shape)
    blocks = fine.reshape(x, 2, y, 2, z, 2).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 8)
    blocks = np.sort(blocks, axis=1)
    votes = (blocks[:, :, None] == blocks[:, None, :]).sum(2, dtype=np.uint8)
    return np.take_along_axis(blocks, votes.argmax(1)[:, None], 1).reshape(x, y, z)


def subject(rng: np.random.Generator, heads: list[Labels]) -> Subject:
    """Return a new head: one of `heads` flipped, warped, resized, with lesions."""
    head = heads[0] if rng.random() < 0.65 else heads[1]
    if rng.random() < 0.5:
        head = FLIP[head[::-1]]
    spacing = float(rng.uniform(1.8, 2.2))
    position = [p.round_().to(torch.int64) for p in _coordinates(rng, spacing)]
    inside = torch.ones(position[0].shape, dtype=torch.bool)
    for p, n in zip(position, a.SHAPE, strict=True):
        inside &= (p >= 0) & (p < n)
        p.clamp_(0, n - 1)
    flat = (position[0] * a.SHAPE[1] + position[1]) * a.SHAPE[2] + position[2]
    fine = np.ascontiguousarray(head).ravel()[flat.numpy()] * inside.numpy().astype(np.uint8)
    _add_lesions(rng, fine)
    return Subject(fine, _majority(fine), spacing)


def example(head: Labels, seed: int) -> Labels:
    """Return `head` without a warp, with lesions drawn from `seed`, at 2 mm: `[96, 112, 96]`."""
    fine = np.zeros(tuple(2 * n for n in SIZE), np.uint8)
    low = [(n - size) // 2 for n, size in zip(fine.shape, head.shape, strict=True)]
    fine[tuple(slice(start, start + n) for start, n in zip(low, head.shape, strict=True))] = head
    _add_lesions(np.random.default_rng(seed), fine)
    return _majority(fine)


def render(rng: np.random.Generator, head: Subject, contrast: str) -> NDArray[np.float32]:
    """Return an image `[X, Y, Z]` float32, about 0..1, of a whole head in one of `CONTRASTS`."""
    table = MEANS[CONTRASTS.index(contrast)] * rng.normal(1, 0.03, 256).astype(np.float32)
    for pair in a.PAIRS.values():
        table[pair[1]] = table[pair[0]]
    table[list(FLUID)] = table[a.CSF]
    table[0] = 0
    painted = torch.from_numpy(table[head.fine])[None, None]
    image = torch.nn.functional.avg_pool3d(painted, 2)[0, 0].numpy()
    image = ndimage.gaussian_filter(image, rng.uniform(0.74, 0.82))  # about 3.6 mm FWHM
    field = torch.exp(0.06 * _smooth_noise(rng, SIZE, 40)[0]).numpy()
    texture = 1 + 0.02 * _smooth_noise(rng, SIZE, 3)[0].numpy()
    image = image * field * texture
    noise = rng.normal(0, 0.006, (2, *SIZE)).astype(np.float32)
    noisy = np.hypot(image + noise[0], noise[1])  # Rician
    return np.asarray(np.where(image < 0.01, 0, noisy), dtype=np.float32)


def without_head(mask: Labels) -> Labels:
    """Return the mask without skull, skin, fat and muscle."""
    return np.where(np.isin(mask, OUTSIDE), np.uint8(0), mask)
