"""A request for a mask of an anatomy, and that mask by MONAI's networks and resampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import monai.transforms
import numpy as np
import torch
from monai.data import MetaTensor

from backends.maisi.mask_cleanup import clean
from export import networks, reference
from export.arrays import Array
from export.variant import Variant

SIZE, SPACING, SEED = (32, 40, 32), (1.5, 2.0, 1.5), 11
REQUEST: dict[str, Any] = {
    "anatomy": np.array([b"liver=0.8, lung tumor=0.4"], object),
    "size": np.array(SIZE, np.int32),
    "spacing": np.array(SPACING, np.float32),
    "seed": np.array([SEED]),
    "steps": np.array([2], np.int32),
}


def mask_of_monai(variant: Variant, checkpoints: Path, size: tuple[int, int, int] = SIZE) -> Array:
    """Return the mask of `REQUEST`, at `size`, by MONAI's networks, scheduler and resampling."""
    table = variant.serving["mask_generation"]
    loaded = networks.load(variant, checkpoints)
    shape = (1, 4, *(side // 4 for side in table["size"]))
    sizes = [0.5, 0.8, 0.5, 0.5, 0.5, 0.4, -1, -1, -1, -1]
    noise = reference.mask_noise(SEED, shape)
    raw = reference.generated_labels(
        loaded, noise, sizes, table["steps"], variant.serving["mask_labels"]
    )
    assert len(np.unique(raw)) > 20, "labels are too few to tell right from wrong"
    labels = clean(raw, 23)
    tensor = MetaTensor(
        torch.from_numpy(labels)[None], affine=torch.diag(torch.tensor([1.5] * 3 + [1]))
    )
    fit = monai.transforms.ResizeWithPadOrCrop(spatial_size=size)
    fitted: Array = fit(monai.transforms.Spacing(pixdim=SPACING, mode="nearest")(tensor))[0].numpy()
    return fitted
