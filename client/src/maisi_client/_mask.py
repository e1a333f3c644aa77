"""Read label masks and grey-level volumes: check them, and reorient them to RAS+."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from ._dicom.file import is_dicom
from ._dicom.segmentation_reader import OWN, read_segmentation
from ._errors import InvalidRequest, MaisiError, MaskError, first_line
from ._grid import RasImage, open_image, present_ids, restore, to_ras
from ._label_names import label_id, label_names

_VOCABULARY_HINT = (
    "`maisi info` lists the names; for CT, --vocabulary (totalsegmentator-v2, ...) says what the"
    " ids mean"
)
_ROUNDING = 0.01  # largest difference of a label from a whole number, as in scaled files


def load_mask(
    mask: str | os.PathLike[str] | SpatialImage, vocabulary: str | None = None
) -> RasImage:
    """Read a label mask and reorient it to RAS+, uint8; see `to_ras`.

    Without a `vocabulary`, names of labels in the header define the ids, which become MAISI's.
    Floating-point data is accepted if its values are whole up to rounding. Raises `MaskError` if
    the mask cannot be read, is not 3-D, holds anything but 0..255, or has names of which only some
    are MAISI's.
    """
    name, image = open_mask(mask)
    labels = to_ras(name, image, MaskError, _labels)
    labels = replace(labels, warnings=tuple(image.extra.get("warnings", ())))
    return labels if vocabulary else _ids_by_names(name, labels)


def label_image(mask: str | os.PathLike[str] | SpatialImage) -> nib.Nifti1Image:
    """Return a label mask on its own grid, as a volume made from it: `[X, Y, Z]`, uint8.

    A volume whose `mask` is None follows this mask of its request. A file may be NIfTI, MGH or a
    DICOM Segmentation.
    Raises `MaskError` if the mask cannot be read, is not 3-D, or holds anything but 0..255.
    """
    labels = load_mask(mask, OWN)
    return restore(labels.values, labels.spacing, labels)


def open_mask(mask: str | os.PathLike[str] | SpatialImage) -> tuple[str, SpatialImage]:
    """Open a label mask, also a DICOM Segmentation; return its name for errors, and the image.

    Raises `MaskError` if it cannot be read.
    """
    if isinstance(mask, (str, os.PathLike)) and is_dicom(mask):
        name = f"mask '{os.fspath(mask)}'"
        try:
            return name, read_segmentation(mask, name)
        except MaisiError:
            raise
        except Exception as error:  # pydicom and highdicom may raise anything for a damaged file
            raise MaskError(f"{name} cannot be read: {first_line(error)}") from error
    return open_image(mask, "mask", MaskError)


def load_greys(picture: str | os.PathLike[str] | SpatialImage, role: str = "source") -> RasImage:
    """Read a volume and reorient it to RAS+, float32; see `to_ras`.

    Raises `InvalidRequest` if it cannot be read, is not 3-D, or holds NaN or infinite values.
    """
    name, image = open_image(picture, role, InvalidRequest)
    return to_ras(name, image, InvalidRequest, _greys)


def _greys(name: str, data: NDArray[Any]) -> NDArray[np.float32]:
    greys = data.astype(np.float32)
    if not np.isfinite(greys).all():
        raise InvalidRequest(f"{name} holds NaN or infinite values; finite numbers are expected")
    return greys


def _labels(name: str, data: NDArray[Any]) -> NDArray[np.uint8]:
    if data.dtype.kind == "b":
        return data.astype(np.uint8)
    whole = np.rint(data) if data.dtype.kind == "f" else data
    with np.errstate(invalid="ignore"):
        labels: NDArray[np.uint8] = whole.astype(np.uint8)
        valid = (labels == whole) & (np.abs(data - whole) <= _ROUNDING)
    if not valid.all():
        voxel = tuple(int(i) for i in np.unravel_index(int(valid.argmin()), data.shape))
        raise MaskError(
            f"{name} holds {_digits(data[voxel])} at voxel {list(voxel)};"
            " labels are whole numbers from 0 to 255"
        )
    return labels


def _digits(value: Any) -> str:
    """Return a number with all its digits."""
    if np.isfinite(value) and value.dtype.kind == "f":
        return np.format_float_positional(value, trim="-")
    return str(value)


def _ids_by_names(name: str, mask: RasImage) -> RasImage:
    """Return a mask with the ids that MAISI gives to the names of its labels.

    If no name is MAISI's, the mask keeps its ids and gets a warning. Raises `MaskError` if only
    some of the names are.
    """
    if not (names := label_names(mask.image)):
        return mask
    present = present_ids(mask.values)
    table = {id_: label_id(names[id_]) for id_ in present if id_ in names}
    if all(id_ == maisi_id for id_, maisi_id in table.items()):
        return mask
    if not any(table.values()):
        id_ = next(iter(table))
        warning = (
            f"{name} names label {id_} '{names[id_]}' in its header, which is none of MAISI's; the"
            f" ids are taken for MAISI's; {_VOCABULARY_HINT}"
        )
        return replace(mask, warnings=(*mask.warnings, warning))
    if unknown := [id_ for id_ in present if table.get(id_) is None]:
        label = f"'{names[unknown[0]]}'" if unknown[0] in names else "without a name"
        raise MaskError(
            f"{name}: label {unknown[0]} is {label} in the header, which has MAISI's names for"
            f" others; name all labels or none; {_VOCABULARY_HINT}"
        )
    ids = np.zeros(256, np.uint8)
    ids[list(table)] = list(table.values())
    changed = ", ".join(
        f"{id_} {names[id_]} became {maisi_id}"
        for id_, maisi_id in table.items()
        if maisi_id != id_
    )
    warning = f"{name} was read by the names of labels in its header: {changed}; {_VOCABULARY_HINT}"
    return replace(mask, values=ids[mask.values], named=True, warnings=(*mask.warnings, warning))
