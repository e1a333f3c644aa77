"""What was done, and what came out of it."""

import json
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import VERSION
from .inputs import Array
from .request import Plan, Variant


def report(
    variant: Variant, plan: Plan, seconds: Mapping[str, float], image: Array, mask: Array | None
) -> str:
    """Return the JSON that goes with `image` [X, Y, Z]; `seconds`: stage -> time it took."""
    ends = {"top_region": plan.top_region, "bottom_region": plan.bottom_region}
    regions = ends if "regions" in variant else {}
    return json.dumps(
        {
            "synthetic": True,
            "variant": variant["name"],
            "weights": variant["weights"],
            "seed": plan.seed,
            "modality": plan.modality,
            "class_label": plan.class_label,
            "size": plan.size,
            "padded_size": plan.padded_size,
            "spacing": plan.spacing,
            "steps": plan.steps,
            "guidance": plan.guidance,
            "guidance_interval": plan.guidance_interval,
            "solver": plan.solver,
            "masked": plan.masked,
            **regions,
            "seconds": {stage: round(value, 4) for stage, value in seconds.items()},
            "quality": quality(image, mask),
            "versions": {
                "maisi": VERSION,
                "python": platform.python_version(),
                "numpy": np.__version__,
            },
        }
    )


def quality(image: Array, mask: Array | None) -> dict[str, Any]:
    """Return the range and mean of `image` and, with a mask, the mean grey level of each label."""
    found: dict[str, Any] = {
        "range": [int(image.min()), int(image.max())],
        "mean": round(float(image.mean()), 2),
    }
    if mask is not None:
        voxels, sums = np.zeros(256, np.int64), np.zeros(256)
        for labels, greys in zip(mask, image, strict=True):  # bincount takes 16 bytes a voxel
            voxels += np.bincount(labels.ravel(), minlength=256)
            sums += np.bincount(labels.ravel(), weights=greys.ravel(), minlength=256)
        found["label_means"] = {
            str(label): round(float(sums[label] / voxels[label]), 2)
            for label in np.flatnonzero(voxels)
            if label
        }
    return found
