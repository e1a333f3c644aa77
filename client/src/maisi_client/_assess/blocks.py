"""Means of blocks of voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def block_means(volume: NDArray[Any], side: int) -> NDArray[np.float32]:
    """Return the means of cubes with `side` voxels along each side, `[X // side, ...]` float32.

    `volume` is `[X, Y, Z]`. Voxels at the end of an axis that do not fill a cube are left out.
    """
    x, y, z = (n // side for n in volume.shape)
    even = volume[: x * side, : y * side, : z * side]
    cubes = even.reshape(x, side, y, side, z, side)
    return np.asarray(cubes.mean((1, 3, 5)), np.float32)
