"""Label maps, and grey levels to start from: files and images, checked and turned to RAS+."""

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
from ._grid import Held, hold, open_image, present_ids, restore
from ._label_names import label_id, label_names

_WAYS = "a vocabulary (--vocabulary: totalsegmentator-v2, maisi, ...) says what the ids mean"
_ROUNDING = 0.01  # how far a label may be from a whole number, as scaled and resampled files are


def load_mask(mask: str | os.PathLike[str] | SpatialImage, vocabulary: str | None = None) -> Held:
    """Read a label map and turn it to RAS+, uint8; see `hold`.

    Where no `vocabulary` says what the ids mean, names of labels in the header do: then the ids
    become MAISI's. Floating-point data is fine if its values are whole up to rounding. Raises
    `MaskError` if the mask cannot be read, is not 3-D, holds anything but 0..255, or has names of
    which only some are MAISI's.
    """
    name, image = open_mask(mask)
    held = hold(name, image, MaskError, _labels)
    held = replace(held, warnings=tuple(image.extra.get("warnings", ())))
    return held if vocabulary else _by_names(name, held)


def label_image(mask: str | os.PathLike[str] | SpatialImage) -> nib.Nifti1Image:
    """Return a label map as a volume made from it lies: uint8, on its own grid.

    Raises `MaskError` as `load_mask` does.
    """
    held = load_mask(mask, OWN)
    return restore(held.values, held.spacing, held)


def open_mask(mask: str | os.PathLike[str] | SpatialImage) -> tuple[str, SpatialImage]:
    """Open a label map, a DICOM Segmentation too; return what to call it first.

    Raises `MaskError` if it cannot be read.
    """
    if isinstance(mask, (str, os.PathLike)) and is_dicom(mask):
        name = f"mask '{os.fspath(mask)}'"
        try:
            return name, read_segmentation(mask, name)
        except MaisiError:
            raise
        except Exception as error:  # pydicom and highdicom raise what a garbled file leads to
            raise MaskError(f"{name} cannot be read: {first_line(error)}") from error
    return open_image(mask, "mask", MaskError)


def load_greys(picture: str | os.PathLike[str] | SpatialImage, what: str = "source") -> Held:
    """Read a volume, to start from or to draw, and turn it to RAS+, float32; see `hold`.

    Raises `InvalidRequest` if it cannot be read, is not 3-D, or holds what is no finite number.
    """
    name, image = open_image(picture, what, InvalidRequest)
    return hold(name, image, InvalidRequest, _greys)


def _greys(name: str, data: NDArray[Any]) -> NDArray[np.float32]:
    greys = data.astype(np.float32)
    if not np.isfinite(greys).all():
        raise InvalidRequest(f"{name} holds NaN or infinite values; finite numbers are wanted")
    return greys


def _labels(name: str, data: NDArray[Any]) -> NDArray[np.uint8]:
    whole = np.rint(data) if data.dtype.kind == "f" else data
    with np.errstate(invalid="ignore"):
        labels: NDArray[np.uint8] = whole.astype(np.uint8)
        right = (labels == whole) & (np.abs(data - whole) <= _ROUNDING)
    if not right.all():
        at = tuple(int(i) for i in np.unravel_index(int(right.argmin()), data.shape))
        raise MaskError(
            f"{name} holds {_digits(data[at])} at voxel {list(at)};"
            " labels are whole numbers from 0 to 255"
        )
    return labels


def _digits(value: Any) -> str:
    """Return a number with all its digits."""
    if np.isfinite(value) and value.dtype.kind == "f":
        return np.format_float_positional(value, trim="-")
    return str(value)


def _by_names(name: str, held: Held) -> Held:
    """Return a mask with MAISI's ids by the names of its labels, where those are other ids.

    With names of which none is MAISI's, the mask as it is, and a warning. Raises `MaskError` where
    some of them are and others are not.
    """
    if not (names := label_names(held.image)):
        return held
    present = present_ids(held.values)
    table = {id_: label_id(names[id_]) for id_ in present if id_ in names}
    if all(id_ == own for id_, own in table.items()):
        return held
    if not any(table.values()):
        id_ = next(iter(table))
        warning = (
            f"{name} names label {id_} '{names[id_]}' in its header, which is none of MAISI's; the"
            f" ids are taken for MAISI's; {_WAYS}"
        )
        return replace(held, warnings=(*held.warnings, warning))
    if strange := [id_ for id_ in present if table.get(id_) is None]:
        called = f"'{names[strange[0]]}'" if strange[0] in names else "without a name"
        raise MaskError(
            f"{name} has label {strange[0]}, {called} in its header, which is none of MAISI's,"
            f" while others are; {_WAYS}"
        )
    ids = np.zeros(256, np.uint8)
    ids[list(table)] = list(table.values())
    changed = ", ".join(
        f"{id_} {names[id_]} became {own}" for id_, own in table.items() if own != id_
    )
    warning = f"{name} was read by the names of labels in its header: {changed}; {_WAYS}"
    return replace(held, values=ids[held.values], named=True, warnings=(*held.warnings, warning))
