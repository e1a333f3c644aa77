"""Masks and renders: a head is warped, lesions are added, and a contrast is rendered.

The generative model follows SynthSeg (Billot et al., Medical Image Analysis 2023): intensities per
label, a smooth bias field, noise; unlike in SynthSeg the means are those of a real contrast. A
render is computed on a grid twice as fine as the mask and averaged, so that its edges have partial
volume. The texture of a head's T1 within its tissues modulates every contrast.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from . import anatomy as a
from .anatomy import FLUID, Labels
from .heads import UNIT, Head
from .sources import SHAPE, Mask
from .warps import coordinates, sample, smooth_noise

SIZE = (96, 112, 96)
FINE = (192, 224, 192)
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
HEAD_SHARES = (0.4, 0.4, 0.2)  # Colin27, S1, ICBM152, whose cortex hardly folds
OUTSIDE = (a.SKULL, a.MUSCLE, a.FAT, a.SKIN)
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
    """A warped head: uint8 labels `fine` `[2X, 2Y, 2Z]` and `mask` `[X, Y, Z]`; spacing in mm.

    `texture` `[2X, 2Y, 2Z]` float32 is that of the head's T1 in standard deviations.
    """

    fine: Labels
    texture: NDArray[np.float32]
    mask: Labels
    spacing: float


def _add_lesions(rng: np.random.Generator, labels: Labels) -> None:
    """Add, in place, white matter hyperintensities near the ventricles and at most one tumour."""
    white = np.isin(labels[::2, ::2, ::2], WHITE)
    if rng.random() < 0.7:
        fluid = np.isin(labels[::2, ::2, ::2], a.PAIRS["lateral_ventricle"])
        near = white & (ndimage.distance_transform_edt(~fluid) < rng.uniform(4, 14))
        texture = smooth_noise(rng, near.shape, int(rng.integers(4, 8)))[0].numpy()
        wmh = near & (texture > rng.uniform(0.9, 2.1))
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
        edge = radius * (1 + 0.15 * smooth_noise(rng, part.shape, 8)[0].numpy())
        inside = (distance < edge) & (part != 0) & ~np.isin(part, OUTSIDE)
        part[inside] = a.TUMOUR


def _majority(fine: Labels) -> Labels:
    """Return the most frequent label of each 2x2x2 block: `[2X, 2Y, 2Z]` -> `[X, Y, Z]`."""
    x, y, z = (n // 2 for n in fine.shape)
    blocks = fine.reshape(x, 2, y, 2, z, 2).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 8)
    blocks = np.sort(blocks, axis=1)
    votes = (blocks[:, :, None] == blocks[:, None, :]).sum(2, dtype=np.uint8)
    return np.take_along_axis(blocks, votes.argmax(1)[:, None], 1).reshape(x, y, z)


def move_borders(
    labels: Labels, right: Mask, border: NDArray[np.float32], white_mm: float, pial_mm: float
) -> None:
    """Move, in place and outwards, the white border of the cortex and its pial border, by mm.

    `border` `[2, X, Y, Z]` is the distance of the white and of the pial border in mm, positive
    inside, as in `Head`. `right` is the head's right side, whose white matter has its own label.
    """
    cortex = labels == a.GREY
    either = cortex | np.isin(labels, WHITE)
    fluid = labels == a.CSF
    white = border[0] > -white_mm
    labels[either & ~white] = a.GREY
    labels[cortex & white & right] = WHITE[0]
    labels[cortex & white & ~right] = WHITE[1]
    labels[cortex & ~white & (border[1] < -pial_mm)] = a.CSF
    labels[fluid & (border[1] > -pial_mm)] = a.GREY


def subject(
    rng: np.random.Generator, heads: list[Head], variation: float = 1.0, lesions: bool = True
) -> Subject:
    """Return a new head: one of `heads` flipped, warped, resized, with or without lesions.

    `variation`, 0..1, scales position, size, spacing, warps, atrophy and the cortex' thickness.
    """
    head = heads[rng.choice(3, p=HEAD_SHARES)]
    flipped = rng.random() < 0.5
    spacing = SPACING + variation * float(rng.uniform(-0.2, 0.2))
    atrophy = variation * float(rng.uniform() ** 2)
    position = coordinates(rng, FINE, spacing / 2, atrophy, variation)
    if flipped:
        position[0] = SHAPE[0] - 1 - position[0]
    voxel = position.round().to(torch.int64)
    inside = torch.ones(voxel.shape[1:], dtype=torch.bool)
    for p, n in zip(voxel, SHAPE, strict=True):
        inside &= (p >= 0) & (p < n)
        p.clamp_(0, n - 1)
    flat = (voxel[0] * SHAPE[1] + voxel[1]) * SHAPE[2] + voxel[2]
    fine = head.labels.ravel()[flat.numpy()] * inside.numpy().astype(np.uint8)
    texture, *border = sample([head.texture, head.white_border, head.pial_border], position).numpy()
    right = position[0].numpy() >= (SHAPE[0] - 1) / 2
    white_mm = 0.1 + variation * rng.uniform(-0.6, 0.6)
    pial_mm = variation * rng.uniform(-0.4, 0.4) - 0.6 * atrophy  # atrophy widens the sulci
    move_borders(fine, right, np.stack(border) / 10, white_mm, pial_mm)
    if flipped:
        fine = FLIP[fine]
    if lesions:
        _add_lesions(rng, fine)
    return Subject(fine, texture / UNIT, _majority(fine), spacing)


def example(head: Labels, seed: int) -> Labels:
    """Return `head` without a warp, with lesions drawn from `seed`, at 2 mm: `[96, 112, 96]`."""
    fine = np.zeros(FINE, np.uint8)
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
    # A voxel brighter than its tissue in T1 is closer to white matter, hence darker in the other
    # contrasts; outside the brain it is closer to fat, which is bright in all.
    amount = np.full(256, rng.uniform(0.03, 0.06) * (1 if contrast == "mri_t1" else -1), np.float32)
    amount[list(OUTSIDE)] = rng.uniform(0.03, 0.06)
    painted = torch.from_numpy(table[head.fine] * (1 + amount[head.fine] * head.texture))
    image = torch.nn.functional.avg_pool3d(painted[None, None], 2)[0, 0].numpy()
    image = ndimage.gaussian_filter(image, rng.uniform(0.30, 0.42))  # at most one voxel FWHM
    image = image * torch.exp(0.04 * smooth_noise(rng, SIZE, 40)[0]).numpy()
    noise = rng.normal(0, 0.006, (2, *SIZE)).astype(np.float32)
    noisy = np.hypot(image + noise[0], noise[1])  # Rician
    return np.asarray(np.where(image < 0.01, 0, noisy), dtype=np.float32)


def without_head(mask: Labels) -> Labels:
    """Return the mask without skull, skin, fat and muscle."""
    return np.where(np.isin(mask, OUTSIDE), np.uint8(0), mask)
