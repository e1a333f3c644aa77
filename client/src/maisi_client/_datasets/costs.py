"""The cost of a row on a server, before it is made: the shapes of its networks, and its work."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import SpatialImage

from .._dicom.file import is_dicom
from .._errors import MaisiError
from .._grid import orientation, parse_spacing, resampled_shape
from .._image_file import READ_ERRORS, load
from .._variant import Variant, choose_variant
from .row import Row

# The cost of the decoder, in calls of the flow network. It is that of mini in the section Load of
# docs/reference/benchmarks.md.
_DECODER_CALLS = 9
_CALLS_OF_A_STEP = {"heun": 2}
_PATHS = 4096  # files whose grids are cached


@dataclass(frozen=True)
class Cost:
    """The cost of a row.

    Rows with equal `shape` use networks that are compiled for the same shapes. The unit of `work`
    is one voxel in one call of the flow network for one row of its batch. It is 0 if unknown.
    """

    shape: Hashable
    work: float


def cost(row: Row, variants: Mapping[str, Variant]) -> Cost:
    """Return the cost of a row on a server with these variants, from the headers of its files.

    A row that cannot be read has work 0. Its request will report the error.
    """
    arguments = row.arguments
    try:
        variant = choose_variant(arguments.get("variant"), variants)
        shape = _size(arguments, variant)
        multiple = variant.size["multiple"]
        padded = tuple(-(-int(side) // multiple) * multiple for side in shape)
        defaults = variant.defaults
        steps = int(_first(arguments.get("steps"), defaults.get("steps"), 1))
        guided = float(_first(arguments.get("guidance"), defaults.get("guidance"), 0)) > 0
        solver = _first(arguments.get("solver"), defaults.get("solver"), "")
        masked = any(arguments.get(name) is not None for name in ("mask", "anatomy"))
    except (MaisiError, ArithmeticError, TypeError, ValueError, LookupError, *READ_ERRORS):
        picture = _first(arguments.get("mask"), arguments.get("source"), "")
        return Cost(("unknown", str(picture) if isinstance(picture, (str, Path)) else ""), 0.0)
    calls = steps * _CALLS_OF_A_STEP.get(solver, 1) * (1 + guided)
    return Cost(
        (variant.name, padded, masked, guided), float(math.prod(padded)) * (calls + _DECODER_CALLS)
    )


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _size(arguments: Mapping[str, Any], variant: Variant) -> tuple[int, ...]:
    """Return the shape `[X, Y, Z]` of a row's volume in voxels."""
    picture = _first(arguments.get("mask"), arguments.get("source"), False)
    if picture is False:
        preset = variant.presets.get(arguments.get("preset") or "", {})
        size = _first(arguments.get("size"), preset.get("size"), variant.defaults.get("size"))
        x, y, z = (int(side) for side in size)
        return x, y, z
    shape, spacing = _grid(picture) if isinstance(picture, SpatialImage) else _file_grid(picture)
    if (to := arguments.get("spacing")) is None:
        return shape
    return resampled_shape(shape, parse_spacing(spacing), parse_spacing(to))


@functools.lru_cache(_PATHS)
def _file_grid(path: Any) -> tuple[tuple[int, ...], tuple[float, ...]]:
    if is_dicom(path):  # a Segmentation has no header with its grid
        raise ValueError
    return _grid(load(path))


def _grid(image: SpatialImage) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return the shape in voxels and the spacing in mm of an image, in the order of RAS."""
    order = np.argsort(orientation(image.affine)[:, 0])
    sides, lengths = np.array(image.shape[:3])[order], voxel_sizes(image.affine)[order]
    return tuple(sides.tolist()), tuple(lengths.tolist())
