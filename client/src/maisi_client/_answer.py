"""From what a server answers to progress, a mask, or a volume in its place."""

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
from ._volume import Progress, Volume
from ._wire import check_form, read_json, read_tensor

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
    """Return how far the request is, 0 to 1, if this part of the answer says so.

    Raises `ServerError` for a stage without progress.
    """
    stage = read_tensor(result, "stage", np.uint8, 1)
    if stage is None:
        return None
    fraction = read_tensor(result, "progress", np.float32, 1)
    if fraction is None or fraction.size != 1:
        raise ServerError("the server says a stage without its progress; one number is expected")
    text = stage[:_STAGE_BYTES].tobytes().decode(errors="replace")
    # In this order NaN is 0.
    return Progress(printable(text), min(max(0.0, fraction.item()), 1.0))


def report(result: Any, form: Any = _REPORT) -> dict[str, Any] | None:
    """Return the report, if this part of the answer has it; else None.

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
    """Return the volume, with where it came from in its report, if this part has it.

    Raises `ServerError` where image, mask and report do not fit the request or each other.
    """
    image = read_tensor(result, "image", np.int16, 3)
    if image is None:
        return None
    parsed = report(result)
    if parsed is None:
        raise ServerError("the server sent an image without a report")
    _check_size("image", image, size_of(request.inputs) or parsed.get("size") or image.shape)
    used = _used_mask(result, image.shape)
    image, spacing, labels = _cut(image, used, request)
    placed = _place(image, spacing, parsed, request)
    followed = None if labels is None else _place_labels(labels, spacing, parsed, request)
    parsed |= _warnings(parsed, request) | provenance(placed, followed, request, parsed["variant"])
    return Volume(placed, parsed, followed)


def mask(result: Any, report: Mapping[str, Any], request: Request) -> nib.Nifti1Image | None:
    """Return the mask that a server made alone, uint8, where it lies, if this part has it.

    Raises `ServerError` unless it has the size that was asked for.
    """
    used = _used_mask(result, size_of(request.inputs))
    return None if used is None else _place_labels(used, request.spacing, report, request)


def _warnings(report: Mapping[str, Any], request: Request) -> dict[str, list[str]]:
    return {"warnings": [*request.warnings, *report.get("warnings", [])]}


def _used_mask(result: Any, size: Sequence[int] | None) -> NDArray[np.uint8] | None:
    """Return the mask that a server followed, if it is another than the one that it got."""
    used: NDArray[np.uint8] | None = read_tensor(result, "used_mask", np.uint8, 3)
    if used is not None:
        _check_size("used_mask", used, size or used.shape)
    return used


def _check_size(name: str, value: NDArray[Any], size: Sequence[int]) -> None:
    if list(value.shape) != list(size):
        raise ServerError(
            f"the server's {name} has size {list(value.shape)}; {list(size)} is expected"
        )


def _cut(
    image: NDArray[np.int16], used: NDArray[np.uint8] | None, request: Request
) -> tuple[NDArray[np.int16], Spacing | None, NDArray[np.uint8] | None]:
    """Return a volume, background where no label was followed, its spacing, and the labels.

    The labels are None where they are those that were sent. With a mask the spacing is the mask's.
    """
    held, spacing, sent = request.held, request.spacing, request.labels
    if held is None or spacing is None or sent is None:
        return image, spacing, used
    if spacing == held.spacing:  # cut by the server already
        return image, spacing, sent if used is None and request.named else used
    followed = request.inputs["mask"] if used is None else used
    labels = resample_nearest(followed, spacing, held.spacing, sent.shape)
    if used is not None and request.arguments.get("organs"):
        # The mask has some of the labels that were followed alone; tissue shows where others were.
        tissue = np.where(image > image.min(), np.uint8(1), used)
        around = resample_nearest(tissue, spacing, held.spacing, sent.shape)
        image, _ = resample_within(image, tissue, spacing, around, held.spacing)
        return image, held.spacing, labels
    if used is None:
        lost = [*{*present_ids(sent)} - {*present_ids(followed)}]
        labels = np.where(np.isin(sent, lost), labels, sent) if lost else sent
    image, labels = resample_within(image, followed, spacing, labels, held.spacing)
    same = used is None and not request.named and np.array_equal(labels, sent)
    return image, held.spacing, None if same else labels


def _place(
    image: NDArray[np.int16],
    spacing: Spacing | None,
    report: Mapping[str, Any],
    request: Request,
) -> nib.Nifti1Image:
    """Return a volume on the grid of the picture that came; else RAS+, centred on the origin."""
    if request.held is not None and spacing is not None:
        placed = restore(image, spacing, request.held)
    else:
        placed = _centred(image, report["spacing"])
    return _signed(placed, report)


def _place_labels(
    labels: NDArray[np.uint8],
    spacing: Spacing | None,
    report: Mapping[str, Any],
    request: Request,
) -> nib.Nifti1Image:
    """Return a mask where the volume lies."""
    held = request.held
    if held is not None and spacing is not None:
        labels = resample_nearest(labels, spacing, held.spacing, held.values.shape)
        placed = restore(labels, held.spacing, held)
    else:
        placed = _centred(labels, report["spacing"])
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
