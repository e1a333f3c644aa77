"""Label maps, and grey levels to start from: files and images, checked and turned to RAS+."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from ._dicom_mask import is_dicom, read_segmentation
from ._errors import InvalidRequest, MaisiError, MaskError, first_line
from ._grid import Held, hold, open_image


def load_mask(mask: str | os.PathLike[str] | SpatialImage) -> Held:
    """Read a label map and turn it to RAS+, uint8; see `hold`.

    Floating-point data is fine if its values are whole. Raises `MaskError` if the mask cannot be
    read, is not 3-D, or holds anything but 0..255.
    """
    return hold(*open_mask(mask), MaskError, _labels)


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


def load_source(source: str | os.PathLike[str] | SpatialImage) -> Held:
    """Read a volume to start from and turn it to RAS+, float32; see `hold`.

    Raises `InvalidRequest` if it cannot be read, is not 3-D, or holds what is no finite number.
    """
    name, image = open_image(source, "source", InvalidRequest)
    return hold(name, image, InvalidRequest, _greys)


def _greys(name: str, data: NDArray[Any]) -> NDArray[np.float32]:
    if data.dtype.kind not in "buif":
        raise InvalidRequest(f"{name} has data type {data.dtype}; numbers are wanted")
    greys = data.astype(np.float32)
    if not np.isfinite(greys).all():
        raise InvalidRequest(f"{name} holds NaN or infinite values; finite numbers are wanted")
    return greys


def _labels(name: str, data: NDArray[Any]) -> NDArray[np.uint8]:
    if data.dtype.kind not in "buif":
        raise MaskError(
            f"{name} has data type {data.dtype}; whole numbers from 0 to 255 are wanted"
        )
    with np.errstate(invalid="ignore"):
        labels: NDArray[np.uint8] = data.astype(np.uint8)
    wrong = labels != data
    if wrong.any():
        at = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), data.shape))
        raise MaskError(
            f"{name} holds {data[at]:g} at voxel {list(at)}; labels are whole numbers from 0 to 255"
        )
    return labels
