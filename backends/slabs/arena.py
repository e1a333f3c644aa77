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

from ..engines import Array

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


class Arena:
    """Hands out arrays, at most `budget` bytes of them from `near` at a time, the rest from `far`.

    At most `far_limit` bytes are far at a time. `held` and `most`: bytes near now and at most;
    `far_held`: bytes far now; `spilled`: all that ever went far.
    """

    def __init__(
        self,
        budget: int,
        near: Allocate = np.empty,
        far: Allocate = np.empty,
        far_limit: float = math.inf,
    ) -> None:
        self.budget, self.near, self.far = budget, near, far
        self.far_limit = far_limit
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
        if id(array) in self.far_sizes:
            self.wait()  # a copy may still be reading it, and whoever has its memory next writes
        self.held -= self.sizes.pop(id(array), 0)
        self.far_held -= self.far_sizes.pop(id(array), 0)

    def ordered(self) -> AbstractContextManager[None]:
        """Return what work on the arrays is done within; at its end all of it has run."""
        return nullcontext()

    def wait(self) -> None:
        """Wait until the work so far has run; the host runs it at once."""

    def bring(self, array: Any) -> Any:
        """Return an array as engines take it, with the same values."""
        return array

    def read(self, array: Any) -> Array:
        """Return a copy in an array of numpy, whose values are there after `wait`."""
        return np.array(array)

    def copy(self, target: Any, source: Any) -> None:
        """Copy into an array or a part of one, of the same shape and type."""
        target[...] = source
