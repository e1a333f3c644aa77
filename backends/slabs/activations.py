"""Activations in slabs, and the output of a chain as integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..engines import Array, channels_last
from .arena import Arena

# Writes a slab [X, Y, Z] of the output as integers.
Convert = Callable[[Array, npt.NDArray[np.int16]], None]


class Slabs:
    """An activation in slabs; `haloed` ones also have one plane of each neighbour.

    Beyond the volume, this plane repeats the last one, which interpolation needs. Convolutions
    multiply it by 0; see `chain.inside`.
    """

    def __init__(self, count: int, haloed: bool, arena: Arena) -> None:
        self.slabs: list[Any] = [None] * count
        self.haloed, self.arena = haloed, arena
        self.written: Any = None  # the own planes of a slab, if an engine writes to them

    def target(self, number: int, shape: tuple[int, ...], dtype: Any, innermost: bool) -> Any:
        """Allocate a slab with own planes of `shape` [R, C, p, Y, Z], and return these planes.

        Returns None if they are not near the engine, or not contiguous in memory.
        """
        own = self._allocate(number, shape, dtype, innermost)
        memory = channels_last.in_memory(own, channels_last.is_innermost(own))
        if not self.arena.is_near(self.slabs[number]) or not memory.flags.c_contiguous:
            return None
        self.written = own
        return own

    def _allocate(self, number: int, shape: tuple[int, ...], dtype: Any, innermost: bool) -> Any:
        """Allocate a slab, and return its own planes."""
        rows, channels, planes, *sides = shape
        full = (rows, channels, planes + 2, *sides) if self.haloed else shape
        self.slabs[number] = self.arena.empty(full, dtype, innermost)
        return self._own(number)

    def _own(self, number: int) -> Any:
        """Return a slab without the planes of its neighbours."""
        slab = self.slabs[number]
        return slab[:, :, 1:-1] if self.haloed else slab

    def put(self, number: int, core: Any) -> None:
        """Copy a slab's own planes [R, C, p, Y, Z], unless they are written already.

        Call this in the order of the slabs.
        """
        if self.slabs[number] is None:
            self._allocate(number, core.shape, core.dtype, channels_last.is_innermost(core))
        if core is not self.written:
            self.arena.copy(self._own(number), core)
        self.written = None
        if not self.haloed:
            return
        slab = self.slabs[number]
        before = self.slabs[number - 1] if number else None
        self.arena.copy(slab[:, :, 0], core[:, :, 0] if before is None else before[:, :, -2])
        self.arena.copy(slab[:, :, -1], core[:, :, -1])
        if before is not None:
            self.arena.copy(before[:, :, -1], core[:, :, 0])

    def drop(self, number: int) -> None:
        """Free a slab."""
        slab, self.slabs[number] = self.slabs[number], None
        self.arena.free(slab)

    def whole(self) -> Any:
        """Return all slabs in one array, and free each."""
        planes = sum(slab.shape[2] for slab in self.slabs)
        rows, channels, _, *sides = self.slabs[0].shape
        first = self.slabs[0]
        shape, innermost = (rows, channels, planes, *sides), channels_last.is_innermost(first)
        whole = self.arena.new(shape, first.dtype, innermost)
        start = 0
        for number, slab in enumerate(self.slabs):
            self.arena.copy(whole[:, :, start : start + slab.shape[2]], slab)
            start += slab.shape[2]
            self.drop(number)
        return whole


class Integers:
    """The output of a chain as integers on the host.

    A slab is converted while the engine computes the next one.
    """

    def __init__(self, shape: tuple[int, ...], convert: Convert, arena: Arena) -> None:
        self.levels, self.start = np.empty(shape, np.int16), 0
        self.convert, self.arena = convert, arena
        self.copied: tuple[Array, Callable[[], None]] | None = None

    def put(self, number: int, core: Any) -> None:
        """Copy a slab's own planes [R, C, p, Y, Z]; called in the order of the slabs."""
        values = self.arena.read(core)
        wait = self.arena.mark()
        self.convert_copied()
        self.copied = values, wait

    def convert_copied(self) -> None:
        """Convert the slab that was copied last, if there is one."""
        if self.copied is None:
            return
        (values, wait), self.copied = self.copied, None
        wait()
        end = self.start + values.shape[2]
        for row, channel in np.ndindex(values.shape[:2]):
            self.convert(values[row, channel], self.levels[row, channel, self.start : end])
        self.start = end
