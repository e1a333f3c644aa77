"""The report of a volume and the outlook of a request, in JSON."""

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
from .anatomy import names
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
    """Return the JSON report of `image` [X, Y, Z]; `seconds` has the time of each stage.

    `attempts` has the result of `fidelity.measure` for each volume. `image` is the last volume or
    the best one.
    """
    ends = {"top_region": plan.top_region, "bottom_region": plan.bottom_region}
    regions = ends if "regions" in variant else {}
    return json.dumps(
        {
            "synthetic": True,
            "variant": variant["name"],
            "weights": variant["weights"],
            "bfloat16": variant.get("bfloat16", False),
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
            **_mask_fields(variant, plan),
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


def _mask_fields(variant: Variant, plan: Plan) -> dict[str, Any]:
    """Return the fields of the report about the origin of the mask."""
    if not plan.masked:
        return {}
    sizes = None
    if plan.anatomy is not None:
        sizes = dict(zip(names(variant), plan.anatomy, strict=True))
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
    """Return the JSON outlook of a request: the plan, the labels of its mask, warnings, the time.

    `seconds` is the estimate for one attempt, or None. `wait` is the expected time in the queue in
    seconds. `expected_gb` is the size of the decoder's widest activation in 10^9 bytes; the part
    that exceeds its memory budget is in files.
    """
    voxel_ml = math.prod(plan.spacing) / 1000
    voxels = np.zeros(256, np.int64)
    for plane in [] if mask is None else mask:  # bincount uses eight bytes per voxel
        voxels += np.bincount(plane.ravel(), minlength=256)
    inventory = [
        {"id": id_, "name": variant["labels"][str(id_)], "voxels": n, "ml": round(n * voxel_ml, 2)}
        for id_, n in enumerate(voxels.tolist())
        if n and id_
    ]
    fields = {key: value for key, value in dataclasses.asdict(plan).items() if key not in _CLOCK}
    checks = {"labels": inventory, "warnings": warnings(variant, plan, mask)}
    widest = math.prod(plan.padded_size) * variant["bytes_per_voxel"]
    expected = {
        "expected_seconds": seconds and round(seconds, 1),
        "expected_wait_seconds": round(wait, 1),
        "expected_gb": round(widest / 1e9, 3),
    }
    return json.dumps({**fields, **checks, **expected})


def best(attempts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the attempt that follows the mask best.

    The order is: faithful attempts, fewest organs out of range, largest ratio of borders.
    """

    def merit(attempt: Mapping[str, Any]) -> tuple[bool, int, float]:
        edges = attempt["borders"]
        within = [organ["within"] for organ in attempt["organs"].values()]
        return bool(attempt["faithful"]), -within.count(False), edges["ratio"] if edges else 0.0

    return max(attempts, key=merit)


def quality(image: Array, mask: Array | None) -> dict[str, Any]:
    """Return the range and mean of `image` and, with a mask, the mean grey level of each label."""
    statistics: dict[str, Any] = {
        "range": [int(image.min()), int(image.max())],
        "mean": round(float(image.mean()), 2),
    }
    if mask is not None:
        voxels, sums = np.zeros(256), np.zeros(256)
        for plane, grey_plane in zip(mask, image, strict=True):
            labels, greys = plane.ravel(), grey_plane.ravel()
            # There are far fewer runs of equal labels than voxels.
            starts = np.flatnonzero(np.append(True, labels[1:] != labels[:-1]))
            runs = labels[starts]
            voxels += np.bincount(runs, np.diff(starts, append=labels.size), 256)
            sums += np.bincount(runs, np.add.reduceat(greys, starts, dtype=np.int64), 256)
        statistics["label_means"] = {
            str(label): round(float(sums[label] / voxels[label]), 2)
            for label in np.flatnonzero(voxels)
            if label
        }
    return statistics
