"""Measures of whether a volume that was generated without a mask shows a head.

Each measure is compared with that of held-out renders. These are rotated and blurred, and so do not
have the best possible value either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.cluster.vq import kmeans2

from backends.maisi.fidelity import borders

from . import atlas, data
from .atlas import REGIONS, Alignment, Volume
from .fidelity import ORDER, TISSUES
from .synthesis import CONTRASTS, MEANS

FOREGROUND = 0.05  # of the 99.5th percentile; the skull, which is dark, is above it
SHIFTS = range(-4, 5)  # voxels along x
FEWEST = 1000  # voxels; a smaller brain is not segmented
_TISSUES = 3  # REGIONS begins with fluid, grey and white
# Skin and fat are too thin for their intensities to be separated.
_THICK = [number for number, name in enumerate(REGIONS) if name not in ("skin", "fat")]
_EXPECTED = np.stack([MEANS[:, list(labels)].mean(1) for labels in REGIONS.values()], axis=1)


@dataclass(frozen=True)
class Atlas:
    """The training data that a volume is compared with: `shares`, see atlas.maps, and volumes.

    `averages[modality]` `[voxels]` is the mean of the training volumes on the atlas' grid, in
    its interior; `neighbours[modality]` `[subjects, voxels]` float16 are their differences from it,
    each of norm 1.
    """

    shares: Volume
    averages: dict[str, Volume]
    neighbours: dict[str, NDArray[np.float16]]


def build(files: Sequence[Path]) -> Atlas:
    """Return the atlas of the training subjects in `files`, see data.paths."""
    shares = atlas.maps(data.load_mask(path) for path in files)
    rows: dict[str, list[Volume]] = {name: [] for name in CONTRASTS}
    for path in files:
        images = data.load(path)[1].astype(np.float32)
        alignment = atlas.align(images[0], shares)  # all renders of a subject lie alike
        for name, image in zip(CONTRASTS, images, strict=True):
            rows[name].append(_standardised(atlas.on_atlas(image, alignment), shares))
    averages = {name: np.mean(vectors, axis=0, dtype=np.float32) for name, vectors in rows.items()}
    neighbours = {
        name: np.stack([_unit(vector - averages[name]) for vector in vectors]).astype(np.float16)
        for name, vectors in rows.items()
    }
    return Atlas(shares, averages, neighbours)


def _standardised(moved: Volume, shares: Volume) -> Volume:
    """Return a volume on the atlas' grid, its interior `[voxels]`, of mean 0 and deviation 1."""
    values = atlas.averaged(moved, atlas.CELL)[atlas.interior(shares)]
    return np.asarray((values - values.mean()) / max(float(values.std()), 1e-6))


def _unit(vector: Volume) -> Volume:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-6))


def foreground(volume: Volume) -> NDArray[np.bool_]:
    """Return the voxels that are not air."""
    bright = float(np.quantile(volume[::2, ::2, ::2], 0.995))
    return np.asarray(volume > FOREGROUND * max(bright, 1e-6))


def largest_share(inside: NDArray[np.bool_]) -> float:
    """Return the share of the foreground that is in its largest piece; faces connect voxels."""
    pieces, count = ndimage.label(inside)
    return float(np.bincount(pieces.ravel())[1:].max() / inside.sum()) if count else 0.0


def symmetry(moved: Volume, shares: Volume) -> float:
    """Return the correlation of a volume on the atlas' grid with its mirror image, in the interior.

    It is the highest over mirror planes up to two voxels from the middle. The volume is smoothed by
    a Gaussian with a standard deviation of one voxel.
    """
    smooth = ndimage.gaussian_filter(moved, 1.0)
    inside = atlas.interior(shares)
    inside = inside.repeat(atlas.CELL, 0).repeat(atlas.CELL, 1).repeat(atlas.CELL, 2)
    mirror = smooth[::-1]
    values = [_correlation(smooth[inside], np.roll(mirror, shift, 0)[inside]) for shift in SHIFTS]
    return max(values)


def _correlation(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the correlation of two vectors; 0 where one is constant."""
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norm if norm > 1e-9 else 0.0


def contrast_of(alignment: Alignment) -> str:
    """Return the item of CONTRASTS whose mean intensities correlate most with the volume's."""
    values = [_correlation(alignment.means[_THICK], row[_THICK]) for row in _EXPECTED]
    return CONTRASTS[int(np.argmax(values))]


def segment(
    volume: Volume, modality: str, alignment: Alignment, shares: Volume
) -> NDArray[np.uint8]:
    """Return `[X, Y, Z]` 1, 2, 3 for the TISSUES, by k-means where the atlas has them; else 0.

    The clusters begin at the regions' intensities and are assigned by their order in `modality`.
    Voxels as dark as bone are left out.
    """
    brain = atlas.on_volume(shares[:_TISSUES].sum(0), alignment, volume.shape) > 0.5
    brain &= volume > 2 * FOREGROUND * np.quantile(volume[::2, ::2, ::2], 0.995)
    segmentation = np.zeros(volume.shape, np.uint8)
    values = volume[brain].astype(np.float64)
    if values.size < FEWEST:
        return segmentation
    start = np.sort(alignment.means[:_TISSUES])[:, None]
    centres = np.sort(kmeans2(values[::4, None], start, minit="matrix")[0][:, 0])
    rank = np.searchsorted((centres[1:] + centres[:-1]) / 2, values)
    numbers = [1 + list(TISSUES).index(name) for name in ORDER[modality]]
    segmentation[brain] = np.array(numbers, np.uint8)[rank]
    return segmentation


def nearest(moved: Volume, modality: str, reference: Atlas) -> float:
    """Return the highest correlation with a training volume, after subtraction of their average."""
    vector = _standardised(moved, reference.shares) - reference.averages[modality]
    return float((reference.neighbours[modality].astype(np.float32) @ _unit(vector)).max())


def measure(volume: Volume, modality: str, reference: Atlas, spacing: float) -> dict[str, Any]:
    """Return the measures of a whole head `[X, Y, Z]`, about 0..1, requested as `modality`.

    `modality` is one of CONTRASTS, `spacing` in mm. `explained`: see atlas.Alignment; `contrast`:
    see `contrast_of`; volumes in ml; `border`: the step of intensity where the volume's own tissues
    meet, in 1/1000; `border_ratio`: `border` divided by the step where they meet in a displaced
    copy of the segmentation; both are None if too few tissues meet.
    """
    volume = np.asarray(volume, np.float32)
    alignment = atlas.align(volume, reference.shares)
    moved = atlas.on_atlas(volume, alignment)
    segmentation = segment(volume, modality, alignment, reference.shares)
    steps = borders(np.round(1000 * volume).astype(np.int16), segmentation)
    voxels = np.bincount(segmentation.ravel(), minlength=4)[1:]
    return {
        "modality": modality,
        "largest_share": largest_share(foreground(volume)),
        "symmetry": symmetry(moved, reference.shares),
        "explained": alignment.explained,
        "contrast": contrast_of(alignment),
        **{f"{name}_ml": n * spacing**3 / 1000 for name, n in zip(TISSUES, voxels, strict=True)},
        "border": steps["contrast"] if steps else None,
        "border_ratio": steps["ratio"] if steps else None,
        "nearest": nearest(moved, modality, reference),
    }


COLUMNS = {
    "largest_share": ("largest piece", "{:.3f}"),
    "symmetry": ("symmetry", "{:.2f}"),
    "explained": ("explained", "{:.2f}"),
    "csf_ml": ("fluid, ml", "{:.0f}"),
    "grey_ml": ("grey, ml", "{:.0f}"),
    "white_ml": ("white, ml", "{:.0f}"),
    "border": ("border", "{:.0f}"),
    "border_ratio": ("border ratio", "{:.2f}"),
    "nearest": ("nearest", "{:.2f}"),
}


def table(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return a Markdown table: name -> results of `measure`, as mean and standard deviation."""
    titles = [title for title, _ in COLUMNS.values()]
    lines = [f"| volumes | contrast | {' | '.join(titles)} |", "|---" * (len(titles) + 2) + "|"]
    for name, results in rows.items():
        right = sum(result["contrast"] == result["modality"] for result in results)
        cells = [f"{right} of {len(results)}"]
        for key, (_, form) in COLUMNS.items():
            values = [result[key] for result in results if result[key] is not None]
            pair = (np.mean(values), np.std(values)) if values else ()
            cells.append(" ± ".join(form.format(value) for value in pair))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
