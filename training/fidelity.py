"""Metrics of how well a volume follows its mask, for the model card and the tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.cluster.vq import kmeans2

from . import anatomy as a
from .synthesis import WHITE

TISSUES = {
    "csf": a.FLUID,
    "grey": (a.GREY, *a.PAIRS["cerebellum"]),
    "white": (*WHITE, *a.PAIRS["cerebellum_white"]),
}
# tissues from dark to bright
ORDER = {
    "mri_t1": ("csf", "grey", "white"),
    "mri_t2": ("white", "grey", "csf"),
    "mri_flair": ("csf", "white", "grey"),
    "mri_swi": ("white", "grey", "csf"),
}


def tissue_dice(
    volume: NDArray[np.generic], mask: NDArray[np.uint8], modality: str
) -> dict[str, float]:
    """Return tissue -> Dice of fluid, grey and white matter, by k-means in `volume`, with `mask`.

    Both `[X, Y, Z]`. Intensities inside the mask's tissues form three clusters, which are assigned
    by their order in this contrast. Hippocampus, amygdala, deep nuclei, brain stem and lesions are
    excluded.
    """
    inside = np.isin(mask, [label for labels in TISSUES.values() for label in labels])
    truth, values = mask[inside], volume[inside].astype(np.float64)
    start = np.quantile(values, [0.1, 0.5, 0.9])[:, None]
    centres, clusters = kmeans2(values[:, None], start, minit="matrix")
    rank = np.argsort(np.argsort(centres[:, 0]))[clusters]
    order = ORDER[modality.removesuffix("_skull_stripped")]
    scores = {}
    for name, labels in TISSUES.items():
        tissue, expected = rank == order.index(name), np.isin(truth, labels)
        overlap = (tissue & expected).sum()
        scores[name] = float(2 * overlap / max(1, tissue.sum() + expected.sum()))
    return scores


def lesion_contrast(volume: NDArray[np.generic], mask: NDArray[np.uint8]) -> float | None:
    """Return the mean intensity of lesions (WMH, tumour) minus that of their healthy mirror image.

    Both `[X, Y, Z]`. Left and right are mirrored at the brain's centre. The rim of lesions is
    excluded. None where lesions or their healthy mirror have fewer than 30 voxels.
    """
    lesion = np.isin(mask, (a.WMH, a.TUMOUR))
    core = ndimage.binary_erosion(lesion)
    core = core if core.sum() >= 30 else lesion
    brain = np.flatnonzero(np.isin(mask, (*WHITE, a.GREY)).any((1, 2)))
    mirror = np.zeros_like(lesion)
    x, y, z = np.nonzero(core)
    mirrored = brain[0] + brain[-1] - x
    inside = (mirrored >= 0) & (mirrored < len(mask))
    mirror[mirrored[inside], y[inside], z[inside]] = True
    mirror &= np.isin(mask, WHITE) & ~ndimage.binary_dilation(lesion)
    if min(core.sum(), mirror.sum()) < 30:
        return None
    return float(volume[core].mean() - volume[mirror].mean())
