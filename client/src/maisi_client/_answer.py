"""Convert a server's answer to progress, a mask, or a volume on the request's grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ._errors import ServerError, printable
from ._grid import Spacing, present_ids, resample_nearest, resample_within, restore
from ._provenance import provenance
from ._request import Request, size_of
from ._validation import check_form, read_json, read_tensor
from ._volume import Progress, Volume

_STAGE_BYTES = 200
_LONGEST_MM = 1e4  # between voxels
_LENGTHS = [(int, float)] * 3
_REPORT = {  # of a report, as far as the client reads it
    "variant": str,
    "modality": str,
    "seed": int,
    "spacing": _LENGTHS,
    "size?": [int] * 3,
    "steps?": int,
    "guidance?": (int, float),
    "vocabulary?": (str, type(None)),
    "warnings?": [str],
    "fidelity?": {"faithful?": (bool, type(None))},
    "versions?": {str: str},
    "weights?": {str: str},
}
_OUTLOOK = {  # of the report of a check
    **_REPORT,
    "size": [int] * 3,
    "padded_size": [int] * 3,
    "steps": int,
    "solver": str,
    "guidance": (int, float),
    "vocabulary": (str, type(None)),
    "body_added": bool,
    "labels": [{"id": int, "name": str, "voxels": int, "ml": (int, float)}],
    "warnings": [str],
    "expected_seconds": (int, float, type(None)),
    "expected_gb": (int, float),
}


def progress(result: Any) -> Progress | None:
    """Return the stage and the fraction done, 0 to 1, if this message has them.

    Raises `ServerError` for a stage without progress.
    """
    stage = read_tensor(result, "stage", np.uint8, 1)
    if stage is None:
        return None
    fraction = read_tensor(result, "progress", np.float32, 1)
    if fraction is None or fraction.size != 1:
        raise ServerError("the server names a stage without its progress; one number is expected")
    text = stage[:_STAGE_BYTES].tobytes().decode(errors="replace")
    # With the arguments in this order NaN becomes 0.
    return Progress(printable(text), min(max(0.0, fraction.item()), 1.0))


def report(result: Any, form: Any = _REPORT) -> dict[str, Any] | None:
    """Return the report, if this message has it; else None.

    Raises `ServerError` unless it is JSON of the `form`.
    """
    content = read_tensor(result, "report", np.uint8, 1)
    if content is None:
        return None
    try:
        parsed = read_json(content.tobytes())
    except ValueError as error:
        raise ServerError(f"the server's report cannot be read: {error}") from None
    check_form("the server's report", parsed, form)
    if not all(0 < length < _LONGEST_MM for length in parsed["spacing"]):
        raise ServerError(
            f"the server's report has spacing {parsed['spacing']}; lengths above 0 mm are expected"
        )
    return parsed


def outlook(result: Any, request: Request) -> dict[str, Any] | None:
    """Return the report of a check, as `report` does, with the warnings of the request."""
    parsed = report(result, _OUTLOOK)
    return None if parsed is None else parsed | _warnings(parsed, request)


def volume(result: Any, request: Request) -> Volume | None:
    """Return the volume, with provenance in its report, if this message has it; else None.

    Raises `ServerError` if image, mask and report do not fit the request or each other.
    """
    image = read_tensor(result, "image", np.int16, 3)
    if image is None:
        return None
    parsed = report(result)
    if parsed is None:
        raise ServerError("the server sent an image without a report")
    _check_size("image", image, size_of(request.inputs) or parsed.get("size") or image.shape)
    used_mask = _used_mask(result, image.shape)
    image, spacing, labels = _set_background(image, used_mask, request)
    restored = _restore(image, spacing, parsed, request)
    mask_image = None if labels is None else _restore_labels(labels, spacing, parsed, request)
    parsed |= _warnings(parsed, request)
    parsed |= provenance(restored, mask_image, request, parsed["variant"])
    return Volume(restored, parsed, mask_image)


def mask(result: Any, report: Mapping[str, Any], request: Request) -> nib.Nifti1Image | None:
    """Return the mask of a request for only a mask, uint8, if this message has it; else None.

    Raises `ServerError` unless it has the requested size.
    """
    used_mask = _used_mask(result, size_of(request.inputs))
    return (
        None if used_mask is None else _restore_labels(used_mask, request.spacing, report, request)
    )


def _warnings(report: Mapping[str, Any], request: Request) -> dict[str, list[str]]:
    return {"warnings": [*request.warnings, *report.get("warnings", [])]}


def _used_mask(result: Any, size: Sequence[int] | None) -> NDArray[np.uint8] | None:
    """Return the mask that the server used, if it differs from the one in the request."""
    used_mask: NDArray[np.uint8] | None = read_tensor(result, "used_mask", np.uint8, 3)
    if used_mask is not None:
        _check_size("used_mask", used_mask, size or used_mask.shape)
    return used_mask


def _check_size(name: str, value: NDArray[Any], size: Sequence[int]) -> None:
    if list(value.shape) != list(size):
        raise ServerError(
            f"the server's {name} has size {list(value.shape)}; {list(size)} is expected"
        )


def _set_background(
    image: NDArray[np.int16], used_mask: NDArray[np.uint8] | None, request: Request
) -> tuple[NDArray[np.int16], Spacing | None, NDArray[np.uint8] | None]:
    """Return a volume that is background outside its labels, its spacing, and the labels.

    With a mask, both have the mask's spacing. The labels are None if they equal the caller's.
    """
    reference, spacing, original = request.reference, request.spacing, request.labels
    if reference is None or spacing is None or original is None:
        return image, spacing, used_mask
    if spacing == reference.spacing:  # the server has set the background
        return image, spacing, original if used_mask is None and request.named else used_mask
    mask_values = request.inputs["mask"] if used_mask is None else used_mask
    labels = resample_nearest(mask_values, spacing, reference.spacing, original.shape)
    if used_mask is not None and request.arguments.get("organs"):
        # The mask has only some of the labels of the volume; image values show where others were.
        tissue = np.where(image > image.min(), np.uint8(1), used_mask)
        fine_tissue = resample_nearest(tissue, spacing, reference.spacing, original.shape)
        image, _ = resample_within(image, tissue, spacing, fine_tissue, reference.spacing)
        return image, reference.spacing, labels
    if used_mask is None:
        lost_ids = [*{*present_ids(original)} - {*present_ids(mask_values)}]
        labels = np.where(np.isin(original, lost_ids), labels, original) if lost_ids else original
    image, labels = resample_within(image, mask_values, spacing, labels, reference.spacing)
    same = used_mask is None and not request.named and np.array_equal(labels, original)
    return image, reference.spacing, None if same else labels


def _restore(
    image: NDArray[np.int16],
    spacing: Spacing | None,
    report: Mapping[str, Any],
    request: Request,
) -> nib.Nifti1Image:
    """Return a volume on the grid of the request's reference, else RAS+, centred on the origin."""
    if request.reference is not None and spacing is not None:
        volume_image = restore(image, spacing, request.reference)
    else:
        volume_image = _centred(image, report["spacing"])
    return _with_description(volume_image, report)


def _restore_labels(
    labels: NDArray[np.uint8],
    spacing: Spacing | None,
    report: Mapping[str, Any],
    request: Request,
) -> nib.Nifti1Image:
    """Return a mask on the grid of its volume, see `_restore`."""
    reference = request.reference
    if reference is not None and spacing is not None:
        shape = reference.values.shape
        labels = resample_nearest(labels, spacing, reference.spacing, shape)
        label_map = restore(labels, reference.spacing, reference)
    else:
        label_map = _centred(labels, report["spacing"])
    return _with_description(label_map, report)


def _centred(values: NDArray[Any], spacing: Any) -> nib.Nifti1Image:
    lengths = np.array(spacing, dtype=np.float64)
    affine = np.diag([*lengths, 1.0])
    affine[:3, 3] = -lengths * (np.array(values.shape) - 1) / 2
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    return image


def _with_description(image: nib.Nifti1Image, report: Mapping[str, Any]) -> nib.Nifti1Image:
    label = f"SYNTHETIC {report.get('variant')} {report.get('modality')} seed {report.get('seed')}"
    image.header["descrip"] = label.encode()[:79]
    return image
