"""A request for a mask of an anatomy, and that mask by MONAI's networks and resampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import monai.transforms
import numpy as np
import torch
from monai.data import MetaTensor

from backends.maisi import anatomy, head_cleanup, mask_cleanup
from export import networks, reference
from export.arrays import Array
from export.variant import Variant

SIZE, SPACING, SEED = (32, 40, 32), (1.5, 2.0, 1.5), 11
_REQUEST: dict[str, Any] = {
    "size": np.array(SIZE, np.int32),
    "spacing": np.array(SPACING, np.float32),
    "seed": np.array([SEED]),
    "steps": np.array([2], np.int32),
}
REQUEST = _REQUEST | {"anatomy": np.array([b"liver=0.8, lung tumor=0.4"], object)}
HEAD_REQUEST = _REQUEST | {"anatomy": np.array([b"ventricles=0.8, brain tumor=0.4"], object)}


def mask_of_monai(variant: Variant, checkpoints: Path, size: tuple[int, int, int] = SIZE) -> Array:
    """Return the mask of `REQUEST`, at `size`, by MONAI's networks, scheduler and resampling."""
    sizes = [0.5, 0.8, 0.5, 0.5, 0.5, 0.4, -1, -1, -1, -1]
    labels = mask_cleanup.clean(_labels_of_monai(variant, checkpoints, sizes), 23)
    return _resampled(labels, variant, size)


def head_of_monai(variant: Variant, checkpoints: Path, sizes: list[float]) -> Array:
    """Return the mask of a head with `sizes`, one of them a tumour's, likewise."""
    return _resampled(labels_of_head(variant, checkpoints, sizes), variant, SIZE)


def labels_of_head(variant: Variant, checkpoints: Path, sizes: list[float]) -> Array:
    """Return that mask on the grid of the mask networks."""
    labels = _labels_of_monai(variant, checkpoints, sizes)
    volumes = anatomy.volumes(variant.serving, sizes)
    return head_cleanup.clean(variant.serving, labels, (176,), volumes)


def _labels_of_monai(variant: Variant, checkpoints: Path, sizes: list[float]) -> Array:
    table, ids = variant.serving["mask_generation"], variant.serving["mask_labels"]
    loaded = networks.load(variant, checkpoints)
    noise = reference.mask_noise(SEED, (1, 4, *(side // 4 for side in table["size"])))
    kind = table["schedule"]["kind"]
    labels = reference.generated_labels(loaded, noise, sizes, table["steps"], ids, kind)
    assert len(np.unique(labels)) > 20, "labels are too few to tell right from wrong"
    return labels


def _resampled(labels: Array, variant: Variant, size: tuple[int, int, int]) -> Array:
    spacing = variant.serving["mask_generation"]["spacing"]
    affine = torch.diag(torch.tensor([*spacing, 1]))
    tensor = MetaTensor(torch.from_numpy(labels)[None], affine=affine)
    fit = monai.transforms.ResizeWithPadOrCrop(spatial_size=size)
    fitted: Array = fit(monai.transforms.Spacing(pixdim=SPACING, mode="nearest")(tensor))[0].numpy()
    return fitted
