"""Grids as DICOM has them: slices of rows and columns, in LPS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray

from .._errors import InvalidRequest
from .._grid import Held, Spacing, orientation

_SHEAR = 1e-4  # of the cosine of two axes: what float32 leaves of a right angle is far below


@dataclass(frozen=True)
class SliceGrid:
    """Where slices lie: LPS, mm. The axes of `cosines` are columns, rows, slices, in its columns.

    `spacing` is in the same order, `origin` the centre of the first voxel of the first slice.
    """

    shape: tuple[int, int, int]
    cosines: NDArray[np.float64]
    spacing: Spacing
    origin: NDArray[np.float64]


def slice_grid(name: str, held: Held) -> SliceGrid:
    """Return the axial slices of a picture, or what is nearest to axial, as viewers show them.

    Columns go to the left, rows to posterior, slices to the head. Raises `InvalidRequest` if the
    affine of the picture called `name` is sheared.
    """
    # In float32, as NIfTI files hold it: so a volume and its file are the same.
    affine = np.asarray(held.image.affine, np.float32).astype(np.float64)
    shape = held.image.shape[:3]
    columns, rows, slices = held.values.shape
    to_ras = orientations.inv_ornt_aff(orientation(affine), shape)
    turn = np.diag([-1.0, -1.0, 1.0, 1.0])  # columns and rows run the other way: left, posterior
    turn[:2, 3] = columns - 1, rows - 1
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine @ to_ras @ turn
    cosines = lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)
    shear = np.abs(cosines.T @ cosines - np.eye(3)).max()
    if shear > _SHEAR:
        angle = np.degrees(np.arccos(shear))
        raise InvalidRequest(
            f"{name} has a sheared affine, with axes at {angle:.2f} degrees; right angles are"
            " wanted in DICOM"
        )
    left, _, right = np.linalg.svd(cosines)  # the nearest rotation
    return SliceGrid((columns, rows, slices), left @ right, held.spacing, lps[:3, 3])


def planes_of(held: Held) -> NDArray[Any]:
    """Return the values of RAS+ `[X, Y, Z]` as `[slices, rows, columns]` of a `SliceGrid`."""
    return held.values[::-1, ::-1].transpose(2, 1, 0)
