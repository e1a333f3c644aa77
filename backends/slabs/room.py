"""Where activations lie: near the engines up to a budget, beyond it farther away."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Allocate = Callable[[tuple[int, ...], Any], Any]  # shape, type -> an array with any values


def in_files(folder: Path) -> Allocate:
    """Return what makes arrays in files of `folder`; they have no names and go with the arrays.

    It raises OSError when the disk is full.
    """

    def allocate(shape: tuple[int, ...], dtype: Any) -> Array:
        with tempfile.TemporaryFile(dir=folder) as file:
            # Reserved now: a disk that fills up later would kill the process.
            os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(dtype).itemsize)
            return np.memmap(file, dtype, "r+", shape=shape)

    return allocate


class Room:
    """Hands out arrays, at most `budget` bytes of them from `near` at a time, the rest from `far`.

    Near is memory of this computer, or of a GPU in arrays of CuPy; `upload` makes those of numpy's.
    Work on the arrays is done within `ordered`, at whose end all of it has run.
    At most `far_limit` bytes are far at a time. `held` and `most`: bytes near now and at most;
    `far_held`: bytes far now; `spilled`: all that ever went far.
    """

    def __init__(
        self,
        budget: int,
        near: Allocate = np.empty,
        far: Allocate = np.empty,
        upload: Callable[[Any], Any] = np.asarray,
        far_limit: float = math.inf,
        ordered: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.budget, self.near, self.far, self.upload = budget, near, far, upload
        self.far_limit, self.ordered = far_limit, ordered
        self.held = self.most = self.far_held = self.spilled = 0
        self.sizes: dict[int, int] = {}  # of the arrays that are near, by their identity
        self.far_sizes: dict[int, int] = {}  # and of those that are far

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array whose values are not set; raise OSError beyond the limit."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if self.held + size > self.budget:
            if self.far_held + size > self.far_limit:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
            array = self.far(shape, dtype)
            self.far_sizes[id(array)] = size
            self.far_held += size
            self.spilled += size
            return array
        array = self.near(shape, dtype)
        self.sizes[id(array)] = size
        self.held += size
        self.most = max(self.most, self.held)
        return array

    def free(self, array: Any) -> None:
        """Say that an array is needed no more; its last reference is the caller's to drop."""
        self.held -= self.sizes.pop(id(array), 0)
        self.far_held -= self.far_sizes.pop(id(array), 0)

    def copy(self, target: Any, source: Any) -> None:
        """Copy into an array or a part of one, whichever of the two is near."""
        if not isinstance(target, np.ndarray):
            target[...] = self.upload(source)
        else:
            target[...] = source if isinstance(source, np.ndarray) else source.get()
