"""Features of slices without a network: statistics of intensity, gradient and spectrum."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .harmonising import Greys

SLICES = 12  # slices of each plane
PLANES = ("sagittal", "coronal", "axial")  # with the normals X, Y, Z
_INNER = (0.1, 0.9)  # part of the foreground's length along the normal; its ends show little
_BANDS = np.geomspace(0.03, 0.5, 9)  # cycles per voxel: the limits of 8 bands
_PADDED = 64  # least pixels of a side for the spectrum, so that each band has a frequency
_FEW = 16  # a slice with fewer pixels of foreground has no meaningful statistics
# The noise estimate of Immerkaer, Computer Vision and Image Understanding 1996.
_NOISE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)

GROUPS = {
    "intensity": (
        *("foreground", "mean", "deviation", "skewness", "entropy", "background"),
        *(f"percentile {p}" for p in (5, 25, 50, 75, 95)),
    ),
    "gradient": (
        *("gradient mean", "gradient deviation", "gradient median", "gradient percentile 90"),
        *("gradient percentile 99", "curvature", "noise"),
    ),
    "spectrum": tuple(f"band {band}" for band in range(1, 9)),
}
NAMES = tuple(name for names in GROUPS.values() for name in names)


def slices(volume: Greys, foreground: float) -> list[list[Greys]]:
    """Return `SLICES` slices for each of the three `PLANES`, cropped to the foreground's box.

    The slices are evenly spaced within the middle four fifths of the foreground.
    """
    inside = volume > foreground
    box = []
    for axis in range(3):
        indices = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        low, high = (int(indices[0]), int(indices[-1]) + 1) if indices.size else (0, 0)
        # The spectrum needs a box of at least 8 voxels.
        box.append((low, high) if high - low >= 8 else (0, volume.shape[axis]))
    cut = volume[tuple(slice(low, high) for low, high in box)]
    planes = []
    for axis in range(3):
        last = cut.shape[axis] - 1
        positions = np.rint(np.linspace(_INNER[0] * last, _INNER[1] * last, SLICES))
        planes.append([np.take(cut, int(position), axis=axis) for position in positions])
    return planes


def describe(picture: Greys, foreground: float) -> NDArray[np.float32]:
    """Return the features of a slice `[H, W]` of grey levels 0 to 1, in the order of `NAMES`."""
    inside = picture > foreground
    if inside.sum() < _FEW:
        inside = np.ones_like(inside)
    return np.concatenate(
        [_intensity(picture, inside), _gradient(picture, inside), _spectrum(picture)]
    ).astype(np.float32)


def _intensity(picture: Greys, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    values = picture[inside].astype(np.float64)
    counts = np.histogram(values, 32, (0, 1))[0] / values.size
    spread = float(values.std())
    return np.array(
        [
            inside.mean(),
            values.mean(),
            spread,
            float(((values - values.mean()) ** 3).mean() / max(spread, 1e-6) ** 3),
            -float(np.sum(counts[counts > 0] * np.log(counts[counts > 0]))),
            float(picture[~inside].mean()) if (~inside).any() else 0.0,
            *np.percentile(values, [5, 25, 50, 75, 95]),
        ]
    )


def _gradient(picture: Greys, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    across, down = np.gradient(picture)
    steps = np.hypot(across, down)[inside]
    curvature = np.abs(ndimage.laplace(picture, mode="nearest"))[inside].mean()
    rough = np.abs(ndimage.convolve(picture, _NOISE, mode="nearest"))[inside]
    noise = np.sqrt(np.pi / 2) * rough.mean() / 6
    return np.array(
        [
            *(steps.mean(), steps.std(), *np.percentile(steps, [50, 90, 99])),
            *(curvature, noise),
        ]
    )


def _spectrum(picture: Greys) -> NDArray[np.float64]:
    """Return the logarithm of the mean power of 8 bands of spatial frequency."""
    height, width = picture.shape
    taper = np.outer(np.hanning(height), np.hanning(width))
    size = max(height, _PADDED), max(width, _PADDED)
    spectrum = np.fft.rfft2((picture - picture.mean()) * taper, size)
    power = np.abs(spectrum) ** 2 / np.sum(taper**2)
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None])
    band = np.digitize(frequency, _BANDS) - 1
    in_band = (band >= 0) & (band < 8)
    sums = np.bincount(band[in_band], power[in_band], 8)
    return np.asarray(np.log10(sums / np.bincount(band[in_band], minlength=8) + 1e-8))
