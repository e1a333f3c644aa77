"""An atlas of tissues, their shares over the training masks, and the alignment of volumes to it.

A volume without a mask is aligned by linear regression: its intensities are explained by the shares
of the regions, each region having one intensity, and Gauss-Newton steps find the affine map that
explains most of the variance. Neither the modality nor the scale of intensities matters, and the
regression's coefficients are the regions' intensities, free of partial volume.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from . import anatomy as a
from .synthesis import OUTSIDE, SIZE

Volume = NDArray[np.float32]


REGIONS = {
    "fluid": a.FLUID,
    "grey": a.GREY_MATTER,
    "white": a.WHITE_MATTER,
    # dark in SWI, not in T2
    "basal ganglia": a.BASAL_GANGLIA,
    "thalamus": a.PAIRS["thalamus"],
    "skull": (a.SKULL,),
    "muscle": (a.MUSCLE,),
    "fat": (a.FAT,),
    "skin": (a.SKIN,),
}
_REGION = np.full(256, -1, np.int8)
for _number, _labels in enumerate(REGIONS.values()):
    _REGION[list(_labels)] = _number
_REGION[[a.WMH, a.TUMOUR]] = list(REGIONS).index("white")

CELL = 2  # side of a voxel of the atlas in voxels of a mask
COARSE = 4  # side of a voxel of the alignment in voxels of the volume
STEPS = 15
_CENTRE = (np.array(SIZE) - 1) / 2
_UNIT = 48.0  # voxels; scales positions so that matrix and offset have changes of one size
_FURTHEST = 4.0  # voxels; the largest change in one step
_DEEP = 3  # voxels of the atlas, 12 mm


@dataclass(frozen=True)
class Alignment:
    """Voxel x of a volume is voxel `matrix @ x + offset` of the atlas' masks.

    `means` `[regions]` are the volume's intensities in the regions; `explained`, 0..1, is the share
    of its variance in the interior that these intensities explain.
    """

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    means: NDArray[np.float64]
    explained: float


def averaged(volume: NDArray[Any], side: int) -> Volume:
    """Return the means of cubes of `side` voxels: `[..., X, Y, Z]` -> `[..., X / side, ...]`."""
    x, y, z = (n // side for n in volume.shape[-3:])
    whole = volume[..., : x * side, : y * side, : z * side]
    cubes = whole.reshape(*volume.shape[:-3], x, side, y, side, z, side)
    return np.asarray(cubes.mean((-5, -3, -1), dtype=np.float32))


def maps(masks: Iterable[NDArray[np.uint8]]) -> Volume:
    """Return the shares of REGIONS in masks `[96, 112, 96]`: `[regions, 48, 56, 48]`.

    Masks are aligned by the mean and the standard deviation of the positions of their intracranial
    voxels. The shares are symmetric between left and right.
    """
    masks = list(masks)
    moments = [_moments(~np.isin(mask, (0, *OUTSIDE))) for mask in masks]
    centre, deviation = np.mean(moments, axis=0)
    centre[0] = _CENTRE[0]
    total = np.zeros((len(REGIONS), *(n // CELL for n in SIZE)), np.float32)
    for mask, (own_centre, own_deviation) in zip(masks, moments, strict=True):
        scale = own_deviation / deviation
        offset = own_centre - scale * centre
        moved = ndimage.affine_transform(mask, scale, offset, output_shape=SIZE, order=0)
        region = _REGION[moved]
        total += np.stack([averaged(region == number, CELL) for number in range(len(REGIONS))])
    return np.asarray((total + total[:, ::-1]) / (2 * len(masks)))


def _moments(region: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the centre and the standard deviation `[3]` of the region's voxels."""
    places = np.argwhere(region)
    return places.mean(0), places.std(0)


def interior(shares: Volume) -> NDArray[np.bool_]:
    """Return the voxels `[48, 56, 48]` that lie 12 mm or more inside the head.

    Anatomy is measured there, because the outlines of heads alone are similar and symmetric.
    """
    return np.asarray(ndimage.binary_erosion(shares.sum(0) > 0.5, iterations=_DEEP))


def align(volume: Volume, shares: Volume) -> Alignment:
    """Return the alignment of `volume` `[X, Y, Z]` to `shares`, the result of `maps`.

    The first guess aligns the centres. Each step solves for the regions' intensities and for the
    change of the affine map at once.
    """
    coarse = averaged(volume, COARSE).astype(np.float64)
    atlas = averaged(shares, COARSE // CELL)
    intensity = coarse.ravel()
    unit = max(float(intensity.std()), 1e-6)
    intensity /= unit
    middle = (np.array(volume.shape) - 1) / 2
    grid = [COARSE * np.arange(n) + (COARSE - 1) / 2 for n in coarse.shape]
    places = np.stack(np.meshgrid(*grid, indexing="ij")).reshape(3, -1)
    places = (places - middle[:, None]) / _UNIT
    matrix, offset = _UNIT * np.eye(3), _CENTRE.copy()
    regions = len(atlas) + 1  # the last one is a constant, for the background

    def at(images: Iterable[Any]) -> NDArray[np.float64]:
        index = (matrix @ places + offset[:, None] - (COARSE - 1) / 2) / COARSE
        return np.stack([ndimage.map_coordinates(image, index, order=1) for image in images])

    for _ in range(STEPS):
        columns = np.concatenate([at(atlas), np.ones((1, intensity.size))])
        means = _solve(columns, intensity, regions)
        residual = intensity - means @ columns
        slopes = at(np.gradient(np.tensordot(means[:-1], atlas, 1))) / COARSE
        affine = (slopes[:, None] * places).reshape(9, -1)
        change = _solve(np.concatenate([columns, affine, slopes]), residual, regions)[regions:]
        change *= min(1.0, _FURTHEST / max(np.abs(change).max(), 1e-9))
        matrix, offset = matrix + change[:9].reshape(3, 3), offset + change[9:]
        if np.abs(change).max() < 0.05:
            break
    deep = at([averaged(interior(shares), COARSE // CELL)])[0] > 0.5
    variance = float(intensity[deep].var()) if deep.any() else 0.0
    explained = max(0.0, 1 - residual[deep].var() / variance) if variance > 1e-6 else 0.0
    matrix = matrix / _UNIT
    return Alignment(matrix, offset - matrix @ middle, unit * means[:-1], float(explained))


def _solve(
    columns: NDArray[np.float64], values: NDArray[np.float64], regions: int
) -> NDArray[np.float64]:
    """Return the least squares coefficients, with a ridge penalty on those of the regions."""
    normal = columns @ columns.T
    diagonal = np.diag_indices(len(columns))
    normal[diagonal] = normal[diagonal] * 1.0001 + 1e-6
    inner = tuple(index[:regions] for index in diagonal)
    normal[inner] += 1e-5 * values.size
    return np.asarray(np.linalg.solve(normal, columns @ values))


def on_volume(share: Volume, alignment: Alignment, shape: tuple[int, ...]) -> Volume:
    """Return a map `[48, 56, 48]` of the atlas on the grid of the aligned volume of `shape`."""
    offset = (alignment.offset - (CELL - 1) / 2) / CELL
    return np.asarray(
        ndimage.affine_transform(
            share, alignment.matrix / CELL, offset, output_shape=shape, order=1
        )
    )


def on_atlas(volume: Volume, alignment: Alignment) -> Volume:
    """Return the volume on the grid of the atlas' masks, `[96, 112, 96]`."""
    # the pseudo-inverse, because the matrix may be singular if the volume is not a head
    inverse = np.linalg.pinv(alignment.matrix)
    return np.asarray(
        ndimage.affine_transform(
            volume, inverse, -inverse @ alignment.offset, output_shape=SIZE, order=1
        )
    )
