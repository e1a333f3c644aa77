"""Warn if a request differs from the data that a model was trained on.

The presets of the variant describe this data: size, spacing, their share of the training data, and
a `caveat` if images without a mask are known to be bad.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .anatomy import lesions
from .inputs import Array, Variant, by
from .request import Plan

_FAR = 1.25  # ratio of fields of view along an axis
_COARSE = 1.5  # ratio of spacings along an axis
_RARE = 0.01  # share of the training data

Preset = Mapping[str, Any]


def warnings(variant: Variant, plan: Plan, mask: Array | None = None) -> list[str]:
    """Return a sentence for each difference of the plan from the presets of its modality.

    There is also a sentence for each requested lesion that is not in the generated `mask`
    [X, Y, Z].
    """
    return [*_differences(variant, plan), *_missing_lesions(variant, plan, mask)]


def _missing_lesions(variant: Variant, plan: Plan, mask: Array | None) -> list[str]:
    if plan.anatomy is None or mask is None:
        return []
    labels = lesions(variant, plan.anatomy)
    missing = [label for label in labels if not any((plane == label).any() for plane in mask)]
    names = [variant["labels"][str(label)] for label in missing]
    return [
        f"anatomy: the generated mask has no {name} at this size, spacing and seed"
        for name in names
    ]


def _differences(variant: Variant, plan: Plan) -> list[str]:
    near = nearest(variant, plan)
    if near is None:
        return []
    name, preset = near
    field = _field(plan.size, plan.spacing)
    described = _describe(variant, name)
    sentences = []
    if _apart(field, _field(preset["size"], preset["spacing"])) > math.log(_FAR):
        sentences.append(
            f"field of view: {_mm(field)} is far from what {plan.variant} was trained for; "
            f"the nearest preset is {described}"
        )
    if _apart(plan.spacing, preset["spacing"]) > math.log(_COARSE):
        sentences.append(
            f"spacing: {by(plan.spacing)} mm is far from what {plan.variant} was trained for; "
            f"the nearest preset is {described}"
        )
    if not sentences and "caveat" in preset and not (plan.masked or plan.sourced):
        sentences.append(f"preset {name}: {preset['caveat']}")
    share = training_share(variant, name)
    if share is not None and share < _RARE:
        sentences.append(
            f"training data: {plan.modality} like this was rare, so the quality may be lower; "
            f"the nearest preset is {described}"
        )
    return sentences


def nearest(variant: Variant, plan: Plan) -> tuple[str, Preset] | None:
    """Return the preset of the plan's modality whose field of view is closest to the plan's.

    Skull-stripped brains have the presets of whole brains. The result is None if the modality has
    no preset.
    """
    whole = plan.modality.removesuffix("_skull_stripped")
    presets = {
        name: preset
        for name, preset in variant["presets"].items()
        if preset["modality"] in (plan.modality, whole)
    }
    if plan.preset is not None and plan.preset in presets:
        return plan.preset, presets[plan.preset]
    field = _field(plan.size, plan.spacing)
    apart = {
        name: _apart(field, _field(preset["size"], preset["spacing"]))
        for name, preset in presets.items()
    }
    if not apart:
        return None
    name = min(apart, key=lambda name: apart[name])
    return name, presets[name]


def training_share(variant: Variant, name: str) -> float | None:
    """Return a preset's share of the training data, 0..1; None if it is unknown."""
    presets = variant["presets"]
    if "share" in presets[name]:
        return float(presets[name]["share"])
    if "scans" in presets[name]:
        total = sum(preset.get("scans", 0) for preset in presets.values())
        return float(presets[name]["scans"] / total)
    return None


def _describe(variant: Variant, name: str) -> str:
    preset, share = variant["presets"][name], training_share(variant, name)
    suffix = "" if share is None else f", {100 * share:.2g} % of the training data"
    size, spacing = by(preset["size"]), by(preset["spacing"])
    return f"{name} ({size} voxels of {spacing} mm{suffix})"


def _field(size: Sequence[int], spacing: Sequence[float]) -> list[float]:
    return [side * mm for side, mm in zip(size, spacing, strict=True)]


def _apart(one: Any, other: Any) -> float:
    return max(abs(math.log(a / b)) for a, b in zip(one, other, strict=True))


def _mm(lengths: list[float]) -> str:
    return " x ".join(f"{length:.0f}" for length in lengths) + " mm"
