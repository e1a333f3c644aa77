"""The grid of a DICOM series: slices of rows and columns, in LPS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray

from .._errors import InvalidRequest
from .._grid import RasImage, Spacing, orientation

_SHEAR = 1e-4  # largest cosine between two axes; far above the rounding of float32


@dataclass(frozen=True)
class SliceGrid:
    """The geometry of slices, LPS, mm.

    The columns of `cosines` `[3, 3]` are unit vectors along columns, rows and slices. `spacing` has
    the same order. `origin` is the centre of the first voxel of the first slice.
    """

    shape: tuple[int, int, int]
    cosines: NDArray[np.float64]
    spacing: Spacing
    origin: NDArray[np.float64]


def slice_grid(name: str, ras: RasImage) -> SliceGrid:
    """Return the grid of an image's slices in the orientation nearest to axial.

    As in viewers, columns run to the left, rows to posterior and slices to the head. Raises
    `InvalidRequest` if the affine is sheared; `name` is the image's name in the error.
    """
    # Use float32, the type in a NIfTI file, so that a volume and its file give the same grid.
    affine = np.asarray(ras.image.affine, np.float32).astype(np.float64)
    shape = ras.image.shape[:3]
    columns, rows, slices = ras.values.shape
    to_ras = orientations.inv_ornt_aff(orientation(affine), shape)
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])  # columns and rows run to the left and to posterior
    flip[:2, 3] = columns - 1, rows - 1
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine @ to_ras @ flip
    cosines = lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)
    shear = np.abs(cosines.T @ cosines - np.eye(3)).max()
    if shear > _SHEAR:
        angle = np.degrees(np.arccos(shear))
        raise InvalidRequest(
            f"{name} has a sheared affine, with axes at {angle:.2f} degrees; DICOM needs right"
            " angles"
        )
    left, _, right = np.linalg.svd(cosines)  # the nearest rotation
    return SliceGrid((columns, rows, slices), left @ right, ras.spacing, lps[:3, 3])


def planes_of(ras: RasImage) -> NDArray[Any]:
    """Return the values of RAS+ `[X, Y, Z]` as `[slices, rows, columns]` of a `SliceGrid`."""
    return ras.values[::-1, ::-1].transpose(2, 1, 0)
