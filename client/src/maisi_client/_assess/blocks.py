"""Means of blocks of voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def block_means(volume: NDArray[Any], side: int) -> NDArray[np.float32]:
    """Return the means of cubes of `side` voxels of `[X, Y, Z]`: `[X // side, ...]` float32.

    Voxels that fill no cube, at the end of an axis, are left out.
    """
    x, y, z = (n // side for n in volume.shape)
    even = volume[: x * side, : y * side, : z * side]
    cubes = even.reshape(x, side, y, side, z, side)
    return np.asarray(cubes.mean((1, 3, 5)), np.float32)
