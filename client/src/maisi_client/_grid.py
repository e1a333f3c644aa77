"""Images: from any NIfTI grid to the RAS+ grid that the server works on, and back."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
from nibabel import orientations
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from ._errors import InvalidRequest, first_line
from ._image_file import READ_ERRORS, in_mm, load
from ._validation import excerpt

Spacing: TypeAlias = tuple[float, float, float]

MAX_VOXELS = 2**31 - 1  # one gRPC message carries no more
_TILT = 1e-3  # radians
_MAX_DISTANCE_MM, _MAX_DISTANCE_VOXELS = 0.1, 0.1  # between the corners of equal grids
_GEOMETRY = (  # the header fields that define the grid
    *("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


@dataclass(frozen=True)
class RasImage:
    """The values of an image in RAS+ order, and the image.

    `values` is `[X, Y, Z]`; its axes point right, anterior, superior. `spacing` is in mm. `named`
    is True if the ids come from the names of labels instead of the voxels. `warnings` are sentences
    about reading the image.
    """

    values: NDArray[Any]
    spacing: Spacing
    image: SpatialImage
    named: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def affine(self) -> NDArray[np.float64]:
        """The matrix `[4, 4]` from indices of `values` to mm, RAS+."""
        affine = np.asarray(self.image.affine, np.float64)
        to_ras = orientation(affine)
        reoriented: NDArray[np.float64] = affine @ orientations.inv_ornt_aff(
            to_ras, self.image.shape[:3]
        )
        return reoriented


def voxel_digest(ras: RasImage) -> str:
    """Return the SHA-256 of the shape and the voxels in RAS+ order, wherever they are."""
    return hashlib.sha256(repr(ras.values.shape).encode() + ras.values.tobytes()).hexdigest()


def to_ras(
    name: str,
    image: SpatialImage,
    failure: type[InvalidRequest],
    check: Callable[[str, NDArray[Any]], NDArray[Any]],
) -> RasImage:
    """Return an image in RAS+ order; `check(name, values)` validates and returns its values.

    Axes are permuted and flipped, but not rotated: the affine keeps an oblique angle.
    `[X, Y, Z, 1]` counts as `[X, Y, Z]`. Raises `failure` if it cannot be read or is not 3-D.
    """
    shape = _volume_shape(name, image, failure)
    affine = np.asarray(image.affine, dtype=np.float64)  # None becomes NaN
    to_ras = orientation(affine) if np.isfinite(affine).all() else np.array(np.nan)
    if not np.isfinite(to_ras).all():
        raise failure(f"{name} has an affine that is not finite or drops an axis")
    if (kind := np.dtype(image.dataobj.dtype)).kind not in "buif":
        raise failure(f"{name} has data type {kind}; numbers are expected")
    try:
        data = np.asanyarray(image.dataobj)
    except READ_ERRORS as error:
        raise failure(f"{name} cannot be read to its end: {first_line(error)}") from error
    # Affines are stored in float32, which would turn 2 mm into 1.9999999.
    sizes = np.round(voxel_sizes(affine)[np.argsort(to_ras[:, 0])], 5)
    if not (sizes.min() > 0 and sizes.max() < math.inf):
        raise failure(f"{name} has voxels of {sizes.tolist()} mm; lengths above 0 mm are expected")
    return RasImage(
        values=np.ascontiguousarray(
            orientations.apply_orientation(check(name, data).reshape(shape), to_ras)
        ),
        spacing=parse_spacing(sizes.tolist()),
        image=image,
    )


def parse_spacing(spacing: Any) -> Spacing:
    """Return lengths in mm along X, Y, Z from one number or three.

    Raises `InvalidRequest` unless they are finite and positive.
    """
    try:
        x, y, z = np.broadcast_to(np.asarray(spacing, dtype=np.float64), (3,)).tolist()
    except (TypeError, ValueError, OverflowError):
        x = y = z = math.nan
    if not all(0 < length < math.inf for length in (x, y, z)):
        raise InvalidRequest(
            f"spacing is {excerpt(spacing)}; allowed are one or three lengths above 0 mm"
        )
    return x, y, z


def resampled_shape(
    shape: tuple[int, ...], spacing: Spacing, to: Spacing, itemsize: int = 1
) -> tuple[int, ...]:
    """Return the shape at another spacing; the extent is kept to within half a voxel.

    Raises `InvalidRequest` if the voxels, of `itemsize` bytes, are too many.
    """
    sides = tuple(
        max(1, round(min(n * a / b, MAX_VOXELS)))  # the quotient may be infinite
        for n, a, b in zip(shape, spacing, to, strict=True)
    )
    if itemsize * math.prod(sides) > MAX_VOXELS:
        raise InvalidRequest(
            f"spacing is {list(to)}; it makes {list(sides)} voxels, more than can be sent"
        )
    return sides


def orientation(affine: NDArray[Any]) -> NDArray[Any]:
    """Return nibabel's orientation of voxel axes in RAS+.

    At 45 degrees an axis is equally near to two directions. The affine is tilted a little, so that
    the choice does not depend on the stored order of the axes.
    """
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14.0)
    cross = np.cross(np.eye(3), axis) * _TILT
    tilted = np.array(affine, np.float64)
    tilted[:3] += cross @ tilted[:3]
    axes: NDArray[Any] = orientations.io_orientation(tilted)
    return axes


def same_grid(one: RasImage, other: RasImage) -> bool:
    """Return whether the voxels of two images are at the same points, in any storage order.

    The distance of their corners may be up to 0.1 mm or 0.1 voxels, whichever is less, because
    affines are rounded.
    """
    if one.values.shape != other.values.shape:
        return False
    ends = [(0, side - 1) for side in one.values.shape]
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)])
    distance = np.linalg.norm(corners @ (one.affine - other.affine).T, axis=1).max()
    return bool(distance <= min(_MAX_DISTANCE_MM, _MAX_DISTANCE_VOXELS * min(one.spacing)))


def resample_nearest(
    labels: NDArray[np.uint8], spacing: Spacing, to: Spacing, shape: tuple[int, ...] | None = None
) -> NDArray[np.uint8]:
    """Return labels `[X, Y, Z]` at another spacing; `shape` defaults to `resampled_shape`."""
    if spacing == to:
        return labels
    shape = shape or resampled_shape(labels.shape, spacing, to)
    nearest = [
        np.clip(np.floor(_positions(m, n, b / a) + 0.5), 0, n - 1).astype(np.intp)
        for m, n, a, b in zip(shape, labels.shape, spacing, to, strict=True)
    ]
    return np.ascontiguousarray(labels[np.ix_(*nearest)])


def resample_linear(
    volume: NDArray[Any], spacing: Spacing, shape: tuple[int, ...], to: Spacing
) -> NDArray[np.float32]:
    """Return a volume `[X, Y, Z]` interpolated on a grid with the same centre."""
    values = volume.astype(np.float32)
    for axis in range(3):
        last = values.shape[axis] - 1
        at = np.clip(_positions(shape[axis], last + 1, to[axis] / spacing[axis]), 0, last)
        low = np.floor(at).astype(np.intp)
        weight = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        below, above = values.take(low, axis), values.take(np.minimum(low + 1, last), axis)
        values = below + weight * (above - below)
    return values


def resample_within(
    volume: NDArray[Any],
    mask: NDArray[np.uint8],
    spacing: Spacing,
    labels: NDArray[np.uint8],
    to: Spacing,
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Return a volume `[X, Y, Z]` at another spacing, and its labels.

    The volume is interpolated only between the voxels that `mask`, on the same grid, labels, so no
    background is mixed into labelled voxels. `labels` are on the grid at the spacing `to`. Where
    they are 0, the result is the volume's lowest value, the background. Labels that have no voxel
    of the mask around them are removed.
    """
    labelled = mask != 0
    weights = resample_linear(labelled, spacing, labels.shape, to)
    sums = resample_linear(volume * labelled, spacing, labels.shape, to)
    within = (labels != 0) & (weights > 0)
    fine = np.full(labels.shape, volume.min(), np.float32)
    np.divide(sums, weights, out=fine, where=within)
    return np.rint(fine).astype(volume.dtype), labels * within


def restore(volume: NDArray[Any], spacing: Spacing, onto: RasImage) -> nib.Nifti1Image:
    """Return a RAS+ volume `[X, Y, Z]` on the grid, axis order and affine of `onto.image`.

    A volume of another spacing is interpolated.
    """
    if spacing != onto.spacing:
        fine = resample_linear(volume, spacing, onto.values.shape, onto.spacing)
        volume = np.rint(fine).astype(volume.dtype)
    affine = np.asarray(onto.image.affine)
    from_ras = orientations.ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), orientation(affine))
    data = np.ascontiguousarray(orientations.apply_orientation(volume, from_ras))
    header = nib.Nifti1Header()
    if isinstance(onto.image.header, nib.Nifti1Header):
        # Both qform and sform: readers differ in which they use.
        for field in _GEOMETRY:
            header[field] = onto.image.header[field]
        header["pixdim"][4:] = 0
    header.set_data_dtype(data.dtype)
    header.set_xyzt_units("mm")
    return nib.Nifti1Image(data, affine, header)


def present_ids(labels: NDArray[np.uint8]) -> list[int]:
    """Return the ids above 0 that labels `[X, Y, Z]` hold."""
    present = np.zeros(256, bool)
    for plane in labels:  # by planes, since an index takes eight bytes a voxel
        present[plane] = True
    return [int(id_) for id_ in np.flatnonzero(present) if id_]


def _positions(count: int, of: int, ratio: float) -> NDArray[np.float64]:
    """Return the positions of `count` voxels with the distance `ratio` among `of` voxels.

    Both rows of voxels have the same centre.
    """
    return (np.arange(count, dtype=np.float64) - (count - 1) / 2) * ratio + (of - 1) / 2


def open_image(
    picture: str | os.PathLike[str] | SpatialImage,
    role: str,
    failure: type[InvalidRequest],
) -> tuple[str, SpatialImage]:
    """Return the name of an image for errors, and the image, without reading its data.

    Raises `failure` if it cannot be read, or its header has more voxels than a file may have.
    """
    if isinstance(picture, SpatialImage):
        return f"the {role}", in_mm(_checked_spacing(picture, role, failure))
    if not isinstance(picture, (str, os.PathLike)):
        kind = type(picture).__name__
        raise failure(f"the {role} is of type {kind}; allowed are a path or a nibabel image")
    name = f"{role} '{os.fspath(picture)}'"
    if not os.path.isfile(picture):  # never raises, as for a name that is too long
        raise failure(f"{name} does not exist or is not a file")
    try:
        image = in_mm(load(picture))
    except READ_ERRORS as error:
        raise failure(f"{name} is not an image that can be read: {first_line(error)}") from error
    return name, image


def _checked_spacing(image: SpatialImage, role: str, failure: type[InvalidRequest]) -> SpatialImage:
    """Return an image; raise `failure` if its file has no spacing and nibabel has assumed one."""
    file = image.get_filename()
    if (
        isinstance(image.header, nib.Nifti1Header)
        and not image.header["sform_code"] > 0
        and str(file).endswith((".nii", ".nii.gz"))
    ):
        with contextlib.suppress(*READ_ERRORS, ValueError):
            if np.array_equal(nib.load(file).affine, image.affine):
                open_image(file, role, failure)
    return image


def _volume_shape(name: str, image: SpatialImage, failure: type[InvalidRequest]) -> tuple[int, ...]:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise failure(f"{name} has shape {list(image.shape)}; three dimensions are expected")
    if math.prod(shape) > MAX_VOXELS:
        raise failure(f"{name} has shape {list(shape)}, more voxels than can be sent")
    return shape
