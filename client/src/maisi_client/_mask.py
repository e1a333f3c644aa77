"""Label maps: from any NIfTI grid to the RAS+ grid that the server works on, and back."""

from __future__ import annotations

import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
from nibabel import orientations
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError, SpatialImage
from numpy.typing import NDArray

from ._errors import InvalidRequest, MaskError

Spacing: TypeAlias = tuple[float, float, float]

MAX_VOXELS = 2**31 - 1  # one gRPC message carries no more
_READ_ERRORS = (
    *(OSError, EOFError, ValueError, MemoryError, zlib.error),
    *(ImageFileError, HeaderDataError, HeaderTypeError),
)
_GEOMETRY = (  # the header fields that place a grid in space
    *("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


@dataclass(frozen=True)
class Mask:
    """A label map turned to RAS+, with the image it came from.

    `labels` is uint8 `[X, Y, Z]`, its axes point right, anterior, superior; `spacing` is in mm.
    """

    labels: NDArray[np.uint8]
    spacing: Spacing
    source: SpatialImage


def load_mask(mask: str | os.PathLike[str] | SpatialImage) -> Mask:
    """Read a label map and turn it to RAS+.

    Axes are permuted and flipped, never rotated: what is oblique stays in the affine.
    `[X, Y, Z, 1]` counts as `[X, Y, Z]`. Floating-point data is fine if its values are whole.

    Raises `MaskError` if the mask cannot be read, is not 3-D, or holds anything but 0..255.
    """
    name, source = open_image(mask)
    shape = _volume_shape(name, source)
    affine = np.asarray(source.affine, dtype=np.float64)  # None becomes NaN
    to_ras = orientations.io_orientation(affine) if np.isfinite(affine).all() else np.array(np.nan)
    if not np.isfinite(to_ras).all():
        raise MaskError(f"{name} has an affine that is not finite or drops an axis")
    labels = _labels(name, source).reshape(shape)
    # Affines are stored in float32, which would turn 2 mm into 1.9999999.
    sizes = np.round(voxel_sizes(affine)[np.argsort(to_ras[:, 0])], 5)
    return Mask(
        labels=np.ascontiguousarray(orientations.apply_orientation(labels, to_ras)),
        spacing=parse_spacing(sizes.tolist()),
        source=source,
    )


def parse_spacing(spacing: Any) -> Spacing:
    """Return lengths in mm along X, Y, Z from one number or three.

    Raises `InvalidRequest` unless they are finite and positive.
    """
    try:
        x, y, z = np.broadcast_to(np.asarray(spacing, dtype=np.float64), (3,)).tolist()
    except (TypeError, ValueError):
        x = y = z = math.nan
    if not all(0 < length < math.inf for length in (x, y, z)):
        raise InvalidRequest(f"spacing is {spacing!r}; allowed are one or three lengths above 0 mm")
    return x, y, z


def resample_nearest(labels: NDArray[np.uint8], spacing: Spacing, to: Spacing) -> NDArray[np.uint8]:
    """Sample labels `[X, Y, Z]` at another spacing; the extent is kept to within half a voxel."""
    shape = [max(1, round(n * a / b)) for n, a, b in zip(labels.shape, spacing, to, strict=True)]
    if math.prod(shape) > MAX_VOXELS:
        raise InvalidRequest(
            f"spacing is {list(to)}; it makes {shape} voxels, more than can be sent"
        )
    nearest = [
        np.clip(np.floor(_positions(m, n, b / a) + 0.5), 0, n - 1).astype(np.intp)
        for m, n, a, b in zip(shape, labels.shape, spacing, to, strict=True)
    ]
    return np.ascontiguousarray(labels[np.ix_(*nearest)])


def resample_linear(
    volume: NDArray[np.int16], spacing: Spacing, shape: tuple[int, ...], to: Spacing
) -> NDArray[np.int16]:
    """Interpolate a volume `[X, Y, Z]` on the grid that `resample_nearest` started from."""
    values = volume.astype(np.float32)
    for axis in range(3):
        last = values.shape[axis] - 1
        at = np.clip(_positions(shape[axis], last + 1, to[axis] / spacing[axis]), 0, last)
        low = np.floor(at).astype(np.intp)
        weight = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        below, above = values.take(low, axis), values.take(np.minimum(low + 1, last), axis)
        values = below + weight * (above - below)
    return np.rint(values).astype(np.int16)


def restore(volume: NDArray[np.int16], spacing: Spacing, mask: Mask) -> nib.Nifti1Image:
    """Bring a RAS+ volume `[X, Y, Z]` to the grid, axis order and affine of `mask.source`.

    If it was made at another spacing it is interpolated, and what the mask leaves empty stays
    background, the volume's lowest value.
    """
    if spacing != mask.spacing:
        background = volume.min()
        volume = resample_linear(volume, spacing, mask.labels.shape, mask.spacing)
        volume[mask.labels == 0] = background
    affine = np.asarray(mask.source.affine)
    from_ras = orientations.ornt_transform(
        np.array([[0, 1], [1, 1], [2, 1]]), orientations.io_orientation(affine)
    )
    data = np.ascontiguousarray(orientations.apply_orientation(volume, from_ras))
    header = nib.Nifti1Header()
    if isinstance(mask.source.header, nib.Nifti1Header):
        # Both forms, copied: readers differ in which of qform and sform they trust.
        for field in _GEOMETRY:
            header[field] = mask.source.header[field]
        header["pixdim"][4:] = 0
    header.set_data_dtype(np.int16)
    header.set_xyzt_units("mm")
    return nib.Nifti1Image(data, affine, header)


def _positions(count: int, of: int, ratio: float) -> NDArray[np.float64]:
    """Return where `count` voxels, `ratio` apart, lie among `of` others of the same centre."""
    return (np.arange(count, dtype=np.float64) - (count - 1) / 2) * ratio + (of - 1) / 2


def open_image(
    picture: str | os.PathLike[str] | SpatialImage,
    what: str = "mask",
    failure: type[InvalidRequest] = MaskError,
) -> tuple[str, SpatialImage]:
    """Open an image, its data not read yet; return what to call it, too. Raises `failure`."""
    if isinstance(picture, SpatialImage):
        return f"the {what}", picture
    if not isinstance(picture, (str, os.PathLike)):
        kind = type(picture).__name__
        raise failure(f"the {what} is of type {kind}; allowed are a path or a nibabel image")
    name = f"{what} '{os.fspath(picture)}'"
    if not Path(picture).is_file():
        raise failure(f"{name} does not exist or is not a file")
    try:
        image = nib.load(picture)
    except _READ_ERRORS as error:
        raise failure(f"{name} is not an image that can be read: {_first_line(error)}") from error
    if not isinstance(image, SpatialImage):
        raise failure(f"{name} is a {type(image).__name__}; a volume is wanted")
    return name, image


def _volume_shape(name: str, image: SpatialImage) -> tuple[int, ...]:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or 0 in shape:
        raise MaskError(f"{name} has shape {list(image.shape)}; three dimensions are wanted")
    if math.prod(shape) > MAX_VOXELS:
        raise MaskError(f"{name} has shape {list(shape)}, more voxels than can be sent")
    return shape


def _labels(name: str, image: SpatialImage) -> NDArray[np.uint8]:
    try:
        data = np.asanyarray(image.dataobj)
    except _READ_ERRORS as error:
        raise MaskError(f"{name} cannot be read to its end: {_first_line(error)}") from error
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


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
