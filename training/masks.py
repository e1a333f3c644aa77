"""The classes of the mask networks, and the four sizes that they are conditioned on.

A size is 0..1 between two volumes of some labels, or -1 where there are none. Voxels count as 2 mm
wide, whatever the spacing of a mask, because the networks do not get the spacing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import anatomy as a
from .synthesis import MEANS, SPACING

ABSENT = -1.0
FEWEST = 5  # voxels; fewer are absent
VOXEL_ML = SPACING**3 / 1000

LABELS: tuple[int, ...] = (0, *(int(label) for label in np.flatnonzero(MEANS.any(0))))
_CLASS = np.full(256, 255, np.uint8)
_CLASS[list(LABELS)] = np.arange(len(LABELS))


@dataclass(frozen=True)
class Size:
    """The root of degree `root` of the volume of `labels`, scaled to 0 at `low` and 1 at `high` ml.

    The third root makes the size of a lesion linear in its diameter.
    """

    name: str
    labels: tuple[int, ...]
    low: float
    high: float
    root: int

    def of(self, mask: NDArray[np.uint8]) -> float:
        """Return the size in `mask` `[X, Y, Z]`, clipped to 0..1; -1 where it is absent."""
        voxels = int(np.bincount(mask.ravel(), minlength=256)[list(self.labels)].sum())
        if voxels < FEWEST:
            return ABSENT
        low, high = self._rooted(self.low), self._rooted(self.high)
        return float(np.clip((self._rooted(voxels * VOXEL_ML) - low) / (high - low), 0, 1))

    def millilitres(self, size: float) -> float:
        """Return the volume in ml of a size; 0 for -1."""
        if size == ABSENT:
            return 0.0
        low, high = self._rooted(self.low), self._rooted(self.high)
        return float((low + size * (high - low)) ** self.root)

    def _rooted(self, volume: float) -> float:
        return float(volume ** (1 / self.root))


# In 269 masks of `mask_data`, ventricles have 11 to 48 ml, hyperintensities up to 71, tumours 2 to
# 28, and 98 % of the heads 2600 to 5500. Beyond a range, sizes are clipped.
SIZES = (
    Size("ventricles", (a.THIRD, a.FOURTH, *a.PAIRS["lateral_ventricle"]), 5.0, 50.0, root=1),
    Size("white matter hyperintensities", (a.WMH,), FEWEST * VOXEL_ML, 80.0, root=3),
    Size("tumor", (a.TUMOUR,), FEWEST * VOXEL_ML, 30.0, root=3),
    Size("head", tuple(label for label in LABELS if label), 2500.0, 5500.0, root=1),
)


def sizes(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the sizes `[4]` of a mask `[X, Y, Z]` in the order of SIZES."""
    return np.array([size.of(mask) for size in SIZES], np.float32)


def classes(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the index in LABELS of each label of `mask`, of any shape.

    Raises ValueError for a label that is not in LABELS.
    """
    index = _CLASS[mask]
    if (index == 255).any():
        unknown = np.unique(mask[index == 255]).tolist()
        raise ValueError(f"mask: labels {unknown}, but those of mini are expected")
    return index


def labels(index: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Return the labels of which `classes` returned `index`."""
    return np.asarray(np.array(LABELS, np.uint8)[index])


def bits(mask: torch.Tensor) -> torch.Tensor:
    """Return the bits `[B, 8, X, Y, Z]` float of uint8 labels `[B, X, Y, Z]`.

    Upstream: binarize_labels.
    """
    powers = 2 ** torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (mask[:, None] & powers[None, :, None, None, None]).ne(0).float()
