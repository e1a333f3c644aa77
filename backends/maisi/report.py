"""What was done, and what came out of it."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import VERSION
from .advice import warnings
from .anatomy import NAMES
from .inputs import Array, Variant
from .request import Plan
from .vocabulary import OWN

_CLOCK = ("started", "condition_seconds")


def report(
    variant: Variant,
    plan: Plan,
    seconds: Mapping[str, float],
    image: Array,
    mask: Array | None,
    attempts: Sequence[Mapping[str, Any]],
) -> str:
    """Return the JSON that goes with `image` [X, Y, Z]; `seconds`: stage -> time it took.

    `attempts`: what `fidelity.check` found of each volume made; `image` is the last, or the best.
    """
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
            "preset": plan.preset,
            **({"strength": plan.strength} if plan.sourced else {}),
            **_of_mask(plan),
            **regions,
            "warnings": warnings(variant, plan, mask),
            "seconds": {stage: round(value, 4) for stage, value in seconds.items()},
            "quality": quality(image, mask),
            **({"fidelity": best(attempts), "attempts": list(attempts)} if attempts else {}),
            "versions": {
                "maisi": VERSION,
                "python": platform.python_version(),
                "numpy": np.__version__,
            },
        }
    )


def _of_mask(plan: Plan) -> dict[str, Any]:
    """Return what is to be said of where the mask came from."""
    if not plan.masked:
        return {}
    sizes = None if plan.anatomy is None else dict(zip(NAMES, plan.anatomy, strict=True))
    return {
        "vocabulary": plan.vocabulary or OWN,
        "body_added": plan.body_added,
        "augmented": plan.augmented,
        "anatomy": sizes,
        "organs": plan.organs,
    }


def outlook(
    variant: Variant,
    plan: Plan,
    mask: Array | None,
    seconds: float | None = None,
    wait: float = 0.0,
) -> str:
    """Return the JSON of what would be done: the plan, warnings, what the mask holds, the time.

    `seconds` is what one attempt is expected to take, None where nobody knows yet, and `wait` what
    comes before it. `expected_gb` is the decoder's widest activation, in 10^9 bytes; what exceeds
    its budget lies in files.
    """
    voxel = math.prod(plan.spacing) / 1000
    held = np.zeros(256, np.int64)
    for plane in [] if mask is None else mask:  # bincount takes eight bytes a voxel
        held += np.bincount(plane.ravel(), minlength=256)
    inventory = [
        {"id": id_, "name": variant["labels"][str(id_)], "voxels": n, "ml": round(n * voxel, 2)}
        for id_, n in enumerate(held.tolist())
        if n and id_
    ]
    told = {key: value for key, value in dataclasses.asdict(plan).items() if key not in _CLOCK}
    found = {"labels": inventory, "warnings": warnings(variant, plan, mask)}
    widest = math.prod(plan.padded_size) * variant["bytes_per_voxel"]
    expected = {
        "expected_seconds": seconds and round(seconds, 1),
        "expected_wait_seconds": round(wait, 1),
        "expected_gb": round(widest / 1e9, 3),
    }
    return json.dumps({**told, **found, **expected})


def best(attempts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the attempt that follows the mask best: a faithful one, then the sharpest borders."""

    def merit(found: Mapping[str, Any]) -> tuple[bool, int, float]:
        edges = found["borders"]
        within = [organ["within"] for organ in found["organs"].values()]
        return bool(found["faithful"]), -within.count(False), edges["ratio"] if edges else 0.0

    return max(attempts, key=merit)


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
