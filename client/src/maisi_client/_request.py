"""From arguments to the tensors of a request, and from its answer to a picture in its place."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from ._errors import InvalidRequest
from ._grid import (
    Held,
    Spacing,
    parse_spacing,
    resample_linear,
    resample_nearest,
    resampled,
    restore,
    same_grid,
)
from ._mask import load_mask, load_source

Picture: TypeAlias = "str | os.PathLike[str] | SpatialImage"


@dataclass(frozen=True)
class Request:
    """The tensors to send, and what the answer is placed on: the picture that came, its labels."""

    inputs: Mapping[str, NDArray[Any]]
    held: Held | None
    spacing: Spacing | None
    labels: NDArray[np.uint8] | None


def prepare(
    mask: Picture | None, source: Picture | None, spacing: Any, asked: Mapping[str, Any]
) -> Request:
    """Read the pictures, put them on one grid, and turn what is `asked` and not None to tensors.

    Raises `InvalidRequest` for what cannot be sent.
    """
    labels = None if mask is None else load_mask(mask)
    greys = None if source is None else load_source(source)
    if labels is not None and greys is not None and not same_grid(labels, greys):
        raise InvalidRequest("the source lies on another grid than the mask; resample one of them")
    held = labels or greys
    known = labels and labels.image.extra.get("vocabulary")
    if known and asked.get("vocabulary") not in (None, known):
        raise InvalidRequest(
            f"vocabulary is '{asked['vocabulary']}'; the mask's codes are read as {known}'s ids"
        )
    used = None if spacing is None else parse_spacing(spacing)
    if held is not None:
        used = used or held.spacing
    inputs = {
        name: _TENSORS[name](name, value) for name, value in asked.items() if value is not None
    }
    if used is not None:
        inputs["spacing"] = np.array(used, np.float32)
        if labels is not None:
            inputs["mask"] = resample_nearest(labels.values, labels.spacing, used)
        if greys is not None:
            sides = resampled(greys.values.shape, greys.spacing, used)
            inputs["source"] = resample_linear(greys.values, greys.spacing, sides, used)
    return Request(inputs, held, used, None if labels is None else labels.values)


def place(image: NDArray[np.int16], report: Mapping[str, Any], request: Request) -> nib.Nifti1Image:
    """Return the answer's volume on the grid of what was sent; else RAS+, centred on the origin."""
    if request.held is not None and request.spacing is not None:
        placed = restore(image, request.spacing, request.held, request.labels)
    else:
        placed = _centred(image, report["spacing"])
    return _signed(placed, report)


def place_mask(
    mask: NDArray[np.uint8], report: Mapping[str, Any], request: Request
) -> nib.Nifti1Image:
    """Return the mask that the answer follows, where `place` puts the volume; uint8."""
    if request.held is not None and request.spacing is not None:
        onto = request.held
        fine = resample_nearest(mask, request.spacing, onto.spacing, onto.values.shape)
        placed = restore(fine, onto.spacing, onto)
    else:
        placed = _centred(mask, report["spacing"])
    return _signed(placed, report)


def _centred(values: NDArray[Any], spacing: Any) -> nib.Nifti1Image:
    lengths = np.array(spacing, dtype=np.float64)
    affine = np.diag([*lengths, 1.0])
    affine[:3, 3] = -lengths * (np.array(values.shape) - 1) / 2
    placed = nib.Nifti1Image(values, affine)
    placed.header.set_xyzt_units("mm")
    return placed


def _signed(placed: nib.Nifti1Image, report: Mapping[str, Any]) -> nib.Nifti1Image:
    label = f"SYNTHETIC {report.get('variant')} {report.get('modality')} seed {report.get('seed')}"
    placed.header["descrip"] = label.encode()[:79]
    return placed


def _integers(name: str, values: Any, dtype: type[np.signedinteger[Any]]) -> NDArray[Any]:
    limits = np.iinfo(dtype)
    try:
        whole = [operator.index(value) for value in values]
        if all(limits.min <= value <= limits.max for value in whole):
            return np.array(whole, dtype)
    except TypeError:
        pass
    raise InvalidRequest(f"{name} is {values!r}; whole numbers of {limits.bits} bits are wanted")


def _sides(name: str, value: Any) -> NDArray[Any]:
    return _integers(name, value, np.int32)


def _count(name: str, value: Any) -> NDArray[Any]:
    return _integers(name, [value], np.int32)


def _seed(name: str, value: Any) -> NDArray[Any]:
    return _integers(name, [value], np.int64)


def _number(name: str, value: Any) -> NDArray[Any]:
    try:
        return np.array([float(value)], np.float32)
    except (TypeError, ValueError):
        raise InvalidRequest(f"{name} is {value!r}; a number is wanted") from None


def _pair(name: str, values: Any) -> NDArray[Any]:
    try:
        low, high = values
        return np.array([float(low), float(high)], np.float32)
    except (TypeError, ValueError):
        raise InvalidRequest(f"{name} is {values!r}; two numbers are wanted") from None


def _text(name: str, value: Any) -> NDArray[Any]:
    return np.array([str(value).encode(errors="replace")], np.object_)


def _flag(name: str, value: Any) -> NDArray[Any]:
    return np.array([bool(value)])


def _sizes(name: str, value: Any) -> NDArray[Any]:
    if isinstance(value, Mapping):
        value = ", ".join(f"{anatomy}={size}" for anatomy, size in value.items())
    return _text(name, value)


def _names(name: str, value: Any) -> NDArray[Any]:
    return _text(name, value if isinstance(value, str) else ", ".join(map(str, value)))


_TENSORS: Mapping[str, Callable[[str, Any], NDArray[Any]]] = {
    "size": _sides,
    "seed": _seed,
    "steps": _count,
    "redraws": _count,
    "guidance": _number,
    "strength": _number,
    "guidance_interval": _pair,
    "check": _flag,
    "mask_only": _flag,
    "augment": _flag,
    "vocabulary": _text,
    "anatomy": _sizes,
    "organs": _names,
    "preset": _text,
    "modality": _text,
    "solver": _text,
    "top_region": _text,
    "bottom_region": _text,
}
NAMES = (*_TENSORS, "mask", "source", "spacing", "latent")  # of all inputs of a server
