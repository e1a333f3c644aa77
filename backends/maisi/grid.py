"""The grid of a volume: its sides and spacing, and presets of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import InvalidRequest
from .inputs import Inputs, Variant, by, join, quote, shortest, text, values

Sides = tuple[int, int, int]
Lengths = tuple[float, float, float]


def preset(variant: Variant, inputs: Inputs) -> tuple[str | None, Mapping[str, Any]]:
    """Return the name of the requested preset, and the variant's defaults updated by its values.

    The name is None without a preset. Raises InvalidRequest for an unknown preset, and for a preset
    together with a mask or a source, which has its own size.
    """
    defaults: Mapping[str, Any] = variant["defaults"]
    if "preset" not in inputs:
        return None, defaults
    name, presets = text(inputs, "preset"), variant["presets"]
    if name not in presets:
        raise InvalidRequest(
            f"preset: {quote(name)} is not one of those of {variant['name']}: {join(presets)}"
        )
    for volume in ("mask", "source"):
        if volume in inputs:
            raise InvalidRequest(
                f"preset: cannot be combined with a {volume}, which has its own size"
            )
    return name, {**defaults, **presets[name]}


def padded_size(variant: Variant, size: Sides) -> Sides:
    """Return `size` rounded up to sides that the networks accept."""
    multiple = variant["size"]["multiple"]
    x, y, z = (-(-side // multiple) * multiple for side in size)
    return x, y, z


def size(variant: Variant, inputs: Inputs, default: Sequence[int]) -> Sides:
    """Return the sides in voxels: of the mask or source, else of the input `size`, else `default`.

    Raises InvalidRequest.
    """
    volumes = [name for name in ("mask", "source") if name in inputs]
    for name in volumes:
        shape = inputs[name].shape
        if len(shape) != 3:
            raise InvalidRequest(f"{name}: {len(shape)} axes, but three are allowed: [X, Y, Z]")
        if shape != inputs[volumes[0]].shape:
            raise InvalidRequest(
                f"{name}: {by(shape)} voxels, but the mask has {by(inputs['mask'].shape)}"
            )
        if "size" in inputs:
            raise InvalidRequest(f"size: cannot be combined with a {name}, which has its own size")
    if volumes:
        name, sides = volumes[0], [int(side) for side in inputs[volumes[0]].shape]
    elif "size" in inputs:
        name, sides = "size", [int(side) for side in values(inputs, "size", 3)]
    else:
        name, sides = "size", list(default)
    x, y, z = sides
    low, high, most = (variant["size"][key] for key in ("min", "max", "max_voxels"))
    if not all(a <= side <= b for a, side, b in zip(low, sides, high, strict=True)):
        raise InvalidRequest(
            f"{name}: {by(sides)} voxels is outside the allowed range, {by(low)} to {by(high)}"
        )
    if x * y * z > most:
        raise InvalidRequest(
            f"{name}: {by(sides)} is {x * y * z} voxels, and at most {most} are allowed"
        )
    return x, y, z


def spacing(variant: Variant, inputs: Inputs, default: Sequence[float]) -> Lengths:
    """Return the spacing in mm, of the input or `default`. Raises InvalidRequest."""
    low, high = variant["spacing"]["min"], variant["spacing"]["max"]
    if "spacing" not in inputs:
        x, y, z = (shortest(side) for side in default)  # as if it came in a request
        return x, y, z
    x, y, z = sides = [shortest(side) for side in values(inputs, "spacing", 3)]
    # Written so that NaN fails.
    if not all(a <= side <= b for a, side, b in zip(low, sides, high, strict=True)):
        raise InvalidRequest(
            f"spacing: {by(sides)} mm is outside the allowed range, {by(low)} to {by(high)} mm"
        )
    return x, y, z
