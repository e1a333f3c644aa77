"""Resample volumes to one spacing, and window their grey levels, so that they are comparable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray
from scipy import ndimage

from .._errors import InvalidRequest
from .._grid import Spacing, open_image, orientation, parse_spacing, resample_linear, to_ras
from .._mask import load_greys

Greys: TypeAlias = NDArray[np.float32]

COARSE = 48  # voxels of each side of the coarse volume
_CT = -100.0  # a volume with lower values is CT; MR never has such values
_CT_WINDOW = (-1000.0, 1000.0)  # HU, the range of the variants of CT
_MR_PERCENTILE = 99.5  # upstream scales MR with this percentile for its networks
_FOREGROUND = {"ct": 0.25, "mr": 0.1}  # fraction of the window; -500 HU for CT
_FWHM = 2 * np.sqrt(2 * np.log(2))  # of a Gaussian, in standard deviations


@dataclass(frozen=True)
class Harmony:
    """The common properties to which every volume is harmonised.

    `modality` is `ct` or `mr`. `spacing` `[X, Y, Z]` in mm is the spacing of the measured slices.
    `extent` in mm is the side of the cube around the centre of the foreground that becomes the
    coarse volume with `COARSE` voxels along each side.
    """

    modality: str
    spacing: Spacing
    extent: float

    @property
    def foreground(self) -> float:
        """The least grey level, 0 to 1, of a voxel in the foreground."""
        return _FOREGROUND[self.modality]


@dataclass(frozen=True)
class Grid:
    """The grid of a file: `shape` in voxels and `spacing` in mm along right, anterior, superior."""

    shape: tuple[int, ...]
    spacing: Spacing

    @property
    def extent(self) -> tuple[float, ...]:
        """The field of view in mm."""
        return tuple(n * mm for n, mm in zip(self.shape, self.spacing, strict=True))


def _has_channels(path: Path, image: SpatialImage) -> bool:
    """Return whether the fourth axis of an image are channels, as in the Decathlon."""
    return len(image.shape) == 4 and path.parent.name in ("imagesTr", "imagesTs")


def read_grid(path: Path) -> Grid:
    """Return the grid of a file from its header; raises `InvalidRequest` if it has no 3-D grid."""
    name, image = open_image(path, "volume", InvalidRequest)
    affine = np.asarray(image.affine, np.float64)
    shape = [int(n) for n in image.shape][: 3 if _has_channels(path, image) else None]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) != 3 or not np.isfinite(affine).all():
        raise InvalidRequest(f"{name} has shape {list(image.shape)}; three dimensions are expected")
    axes = orientation(affine)[:, 0]
    if not np.isfinite(axes).all():
        raise InvalidRequest(f"{name} has a singular affine")
    order = np.argsort(axes)
    sizes = np.round(voxel_sizes(affine)[order], 5)
    return Grid(tuple(shape[int(axis)] for axis in order), parse_spacing(sizes.tolist()))


def modality_of(values: Greys) -> str:
    """Return `ct` if values are far below zero, as in Hounsfield units, else `mr`."""
    return "ct" if float(values.min()) < _CT else "mr"


def common(modality: str, sides: Iterable[Sequence[Grid]]) -> Harmony:
    """Return the harmony for all sides, with the coarsest of their median spacings on each axis.

    Volumes with a finer spacing are blurred, so that no side shows more detail than another.
    """
    medians = [np.median([grid.spacing for grid in grids], axis=0) for grids in sides]
    extents = [np.median([max(grid.extent) for grid in grids]) for grids in sides]
    return Harmony(
        modality,
        parse_spacing(np.round(np.max(medians, axis=0), 4).tolist()),
        round(float(np.max(extents)), 3),
    )


def load(path: Path, harmony: Harmony) -> tuple[Greys, Greys, Spacing]:
    """Return a volume `[X, Y, Z]` at the common spacing, 0 to 1, its raw values and its spacing.

    Raises `InvalidRequest` if the file cannot be read, has the other modality, or has one grey
    level only.
    """
    picture: Path | SpatialImage = path
    _, file = open_image(path, "volume", InvalidRequest)
    if _has_channels(path, file):
        picture = nib.Nifti1Image(np.asarray(file.dataobj[..., 0]), file.affine)
    image = load_greys(picture, "volume")
    raw: Greys = image.values
    if modality_of(raw) != harmony.modality:
        actual = {"ct": "MR", "mr": "CT"}[harmony.modality]
        expected = harmony.modality.upper()
        raise InvalidRequest(f"volume '{path}' is {actual} by its values; {expected} is expected")
    if float(raw.min()) == float(raw.max()):
        raise InvalidRequest(f"volume '{path}' is empty: every voxel is {float(raw.min()):g}")
    shape = shape_at(Grid(raw.shape, image.spacing), harmony.spacing)
    fine = _blurred(windowed(raw, harmony.modality), image.spacing, harmony.spacing)
    return resample_linear(fine, image.spacing, shape, harmony.spacing), raw, image.spacing


def load_labels(path: Path) -> tuple[NDArray[np.int32], Spacing]:
    """Return labels `[X, Y, Z]` int32, RAS+, from 0 to 65535, and their spacing in mm.

    Raises `InvalidRequest` if the file cannot be read or has other values.
    """
    name, image = open_image(path, "labels", InvalidRequest)
    ras = to_ras(name, image, InvalidRequest, _whole)
    return ras.values, ras.spacing


def shape_at(grid: Grid, spacing: Spacing) -> tuple[int, ...]:
    """Return the shape of a grid at another spacing, at least 8 voxels along each side."""
    return tuple(
        max(8, round(extent / mm)) for extent, mm in zip(grid.extent, spacing, strict=True)
    )


def windowed(raw: Greys, modality: str) -> Greys:
    """Return grey levels 0 to 1: HU from -1000 to 1000, or MR from 0 to its 99.5th percentile."""
    if modality == "ct":
        low, high = _CT_WINDOW
    else:
        low = min(float(raw.min()), 0.0)
        high = float(np.percentile(raw, _MR_PERCENTILE))
        high = high if high > low else float(raw.max())
    return np.clip((raw - low) / (high - low), 0, 1).astype(np.float32)


def coarse(volume: Greys, harmony: Harmony) -> Greys:
    """Return the coarse volume, `COARSE` voxels along each side, of a harmonised volume."""
    ratio, offset = _placement(volume, harmony)
    edge = harmony.extent / COARSE
    soft = _blurred(volume, harmony.spacing, (edge, edge, edge))
    moved: Greys = ndimage.affine_transform(
        soft, ratio, offset, (COARSE,) * 3, order=1, mode="constant", cval=0.0
    )
    return moved


def coarse_labels(
    labels: NDArray[np.int32], spacing: Spacing, volume: Greys, harmony: Harmony
) -> NDArray[np.int32]:
    """Return labels `[X, Y, Z]` on the grid of the coarse volume of their harmonised `volume`."""
    ratio, offset = _placement(volume, harmony)
    # Both grids have the same centre.
    scale = np.array(harmony.spacing) / np.array(spacing)
    ends = [(np.array(one.shape) - 1) / 2 for one in (labels, volume)]
    moved: NDArray[np.int32] = ndimage.affine_transform(
        labels, scale * ratio, scale * (offset - ends[1]) + ends[0], (COARSE,) * 3, order=0
    )
    return moved


def _placement(volume: Greys, harmony: Harmony) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return step and start of the coarse volume's voxels, in voxels of the harmonised volume."""
    ratio = harmony.extent / COARSE / np.array(harmony.spacing)
    inside = volume > harmony.foreground
    middle = (np.array(volume.shape) - 1) / 2
    if inside.any():
        middle = np.array(ndimage.center_of_mass(inside))
    return ratio, middle - ratio * (COARSE - 1) / 2


def _blurred(volume: Greys, spacing: Spacing, to: Spacing) -> Greys:
    """Return a volume without the detail that a coarser spacing cannot represent.

    The Gaussian widens a voxel from the one spacing to the other (Cardoso et al., MICCAI 2015).
    """
    ratios = [max(b / a, 1.0) for a, b in zip(spacing, to, strict=True)]
    sigmas = [float(np.sqrt(ratio**2 - 1) / _FWHM) for ratio in ratios]
    if not any(sigmas):
        return volume
    blurred: Greys = ndimage.gaussian_filter(volume, sigmas, mode="nearest")
    return blurred


def _whole(name: str, data: NDArray[np.generic]) -> NDArray[np.int32]:
    numbers = np.asarray(data, np.float64)
    whole = np.rint(numbers)
    if not np.isfinite(numbers).all() or np.abs(numbers - whole).max(initial=0) > 0.01:
        raise InvalidRequest(f"{name} are not whole numbers")
    if whole.min(initial=0) < 0 or whole.max(initial=0) > 65535:
        raise InvalidRequest(f"{name} have values outside 0 to 65535")
    return whole.astype(np.int32)
