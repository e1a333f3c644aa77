"""The memory of activations: near the engine up to a budget, and far from the engine beyond it."""

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

from ..engines import Array, channels_last

Allocate = Callable[[tuple[int, ...], Any], Any]  # shape, dtype -> an uninitialized array


def in_files(folder: Path) -> Allocate:
    """Return an allocator of arrays in unnamed files of `folder`, deleted with the arrays.

    It raises OSError when the disk is full.
    """

    def allocate(shape: tuple[int, ...], dtype: Any) -> Array:
        with tempfile.TemporaryFile(dir=folder) as file:
            # Reserve the space now: later, a write to a full disk would end the process.
            os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(dtype).itemsize)
            return np.memmap(file, dtype, "r+", shape=shape)

    return allocate


class Arena:
    """Allocates arrays: at most `budget` bytes at a time from `near`, the others from `far`.

    At most `far_limit` bytes are far at a time. With `innermost`, all arrays [R, C, X, Y, Z] have C
    innermost in memory. `near_bytes` and `far_bytes` are the bytes near and far now, `near_peak` is
    the largest value of `near_bytes`, and `spilled` the sum of all bytes that were allocated far.
    """

    def __init__(
        self,
        budget: int,
        near: Allocate = np.empty,
        far: Allocate = np.empty,
        far_limit: float = math.inf,
        innermost: bool = False,
    ) -> None:
        self.budget, self.near, self.far, self.innermost = budget, near, far, innermost
        self.far_limit = far_limit
        self.near_bytes = self.near_peak = self.far_bytes = self.spilled = 0
        self.near_sizes: dict[int, int] = {}  # id of an array -> its bytes
        self.far_sizes: dict[int, int] = {}

    def empty(self, shape: tuple[int, ...], dtype: Any, innermost: bool = False) -> Any:
        """Return an uninitialized array, if `innermost` with C innermost in memory.

        Raises OSError beyond the limit.
        """
        innermost = innermost or self.innermost
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if self.near_bytes + size > self.budget:
            if self.far_bytes + size > self.far_limit:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
            array = channels_last.empty(self.far, shape, dtype, innermost)
            self.far_sizes[id(array)] = size
            self.far_bytes += size
            self.spilled += size
            return array
        array = self.new(shape, dtype, innermost)
        self.near_sizes[id(array)] = size
        self.near_bytes += size
        self.near_peak = max(self.near_peak, self.near_bytes)
        return array

    def new(self, shape: tuple[int, ...], dtype: Any, innermost: bool = False) -> Any:
        """Return an uninitialized array near the engine, which does not count."""
        return channels_last.empty(self.near, shape, dtype, innermost or self.innermost)

    def is_near(self, array: Any) -> bool:
        """Return whether an array of `empty` is near the engine."""
        return id(array) in self.near_sizes

    def free(self, array: Any) -> None:
        """Remove an array from the budget; its memory is freed when the caller drops it."""
        if id(array) in self.far_sizes:
            self.wait()  # a copy may still be reading the memory, which is reused
        self.near_bytes -= self.near_sizes.pop(id(array), 0)
        self.far_bytes -= self.far_sizes.pop(id(array), 0)

    def ordered(self) -> AbstractContextManager[None]:
        """Return the context for work on the arrays; at its end, all work is complete."""
        return nullcontext()

    def wait(self) -> None:
        """Wait until all work so far is complete; on the host, it always is."""

    def mark(self) -> Callable[[], None]:
        """Return a function that waits until all work up to now is complete."""
        return self.wait

    def bring(self, array: Any) -> Any:
        """Return an array with the same values that an engine can read."""
        return array

    def read(self, array: Any) -> Array:
        """Return a numpy copy, which is complete when `wait` returns."""
        return np.array(array)

    def copy(self, target: Any, source: Any) -> None:
        """Copy into an array, or a view of an array, of the same shape and dtype."""
        target[...] = source
