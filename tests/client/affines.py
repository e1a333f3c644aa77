"""Affines of oblique masks."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np


def oblique(codes: str, sizes: tuple[float, float, float], degrees: float = 20.0) -> Any:
    """Return an affine with axes along `codes`, tilted about x, away from the origin."""
    turn = np.deg2rad(degrees)
    tilt = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
    axes = nib.orientations.axcodes2ornt(codes)
    basis = np.zeros((3, 3))
    for voxel_axis, (world_axis, sign) in enumerate(axes):
        basis[int(world_axis), voxel_axis] = sign * sizes[voxel_axis]
    affine = np.eye(4)
    affine[:3, :3] = tilt @ basis
    affine[:3, 3] = (-31.5, 12.25, 7)
    return affine
