"""From what a server answers to progress, a mask, or a volume in its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ._grid import resample_nearest, restore
from ._provenance import provenance
from ._request import Request
from ._volume import Progress, Volume


def progress(result: Any) -> Progress | None:
    """Return how far the request is, if this part of the answer says so."""
    stage = result.as_numpy("stage")
    return None if stage is None else Progress(_text(stage), result.as_numpy("progress").item())


def report(result: Any) -> dict[str, Any] | None:
    """Return the report, if this part of the answer has it."""
    told = result.as_numpy("report")
    return None if told is None else json.loads(_text(told))


def volume(result: Any, request: Request) -> Volume | None:
    """Return the volume, with where it came from in its report, if this part has it."""
    image = result.as_numpy("image")
    if image is None:
        return None
    told = report(result) or {}
    placed, used = _place(image, told, request), mask(result, told, request)
    return Volume(placed, told | provenance(placed, used, request), used)


def mask(result: Any, report: Mapping[str, Any], request: Request) -> nib.Nifti1Image | None:
    """Return the mask that the answer follows, uint8, where the volume lies; None: the one sent."""
    used = result.as_numpy("used_mask")
    if used is None:
        return None
    if request.held is not None and request.spacing is not None:
        onto = request.held
        fine = resample_nearest(used, request.spacing, onto.spacing, onto.values.shape)
        return _signed(restore(fine, onto.spacing, onto), report)
    return _signed(_centred(used, report["spacing"]), report)


def _place(
    image: NDArray[np.int16], report: Mapping[str, Any], request: Request
) -> nib.Nifti1Image:
    """Return the volume on the grid of what was sent; else RAS+, centred on the origin."""
    if request.held is not None and request.spacing is not None:
        placed = restore(image, request.spacing, request.held, request.labels)
    else:
        placed = _centred(image, report["spacing"])
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


def _text(value: NDArray[np.uint8]) -> str:
    return value.tobytes().decode()
