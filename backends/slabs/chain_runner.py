"""Run a chain on a device within a budget of memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ..engines import Array, openvino
from ..engines.memory import first_that_fits
from . import budget, chain
from .activations import Convert
from .cpu import Cpu
from .gpu import Gpu


class ChainRunner:
    """Runs a chain on a device within a budget of memory."""

    def __init__(
        self,
        path: Path,
        device: Cpu | Gpu,
        gigabytes: float = 0,
        warn: Callable[[str], None] = print,
        convert: Convert | None = None,
    ) -> None:
        """Load the `chain.json` at `path`.

        `warn(sentence)` is called when memory runs out, before each further attempt. With `convert`
        outputs are integers, see `chain.run`. Raises
        OSError, ValueError, KeyError, TypeError or RuntimeError for files that are missing or
        damaged.
        """
        self.device, self.gigabytes, self.warn, self.convert = device, gigabytes, warn, convert
        self.chain = chain.load(path, device.engine)

    def __call__(self, array: Array) -> Any:
        """Return the output [R, C, X, Y, Z] for an input [R, C, X, Y, Z], or labels [R, X, Y, Z].

        If memory runs out, activations go far, and then slabs get thinner, down to one plane. Slabs
        are also thinner from the start, with a warning, if the engine would not fit into the share
        of the memory that is free.
        Raises ValueError for sides that are not multiples, OSError if the disk is full,
        OutOfMemory if one plane is too large, and RuntimeError if an engine fails.
        """
        x = array.reshape(_with_channels(array.shape))
        planned = self._within_free_memory(x.shape)

        def attempt(thickness: int, near: int) -> Any:
            if (thickness, near) != planned:
                self.warn(f"out of memory; trying slabs of {thickness} with activations elsewhere")
            return chain.run(self.chain, x, thickness, self.device.arena(near), self.convert)

        try:
            return first_that_fits(
                (partial(attempt, *plan) for plan in budget.attempts(*planned)),
                self.device.forget,
                f"{self.chain.input} {list(array.shape)} was too large, even a plane at a time",
            )
        finally:
            self.device.end()

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Begin to compile for a later call with an input of `shape`; raises as a call does."""
        x = _with_channels(shape)
        for engine, shapes in chain.feed_shapes(self.chain, x, self.thickness(x)):
            if isinstance(engine, openvino.Engine):
                engine.prepare(shapes)

    def thickness(self, shape: tuple[int, ...]) -> int:
        """Return the latent planes of a slab for an input [R, C, X, Y, Z].

        It does not depend on the memory that is free, because other slabs have other rounding
        errors. Raises ValueError for sides that are not multiples, or if one plane is too large.
        """
        step = self.chain.planes[self.chain.input]
        if 0 in shape or any(side % step for side in shape[-3:]):
            raise ValueError(
                f"{self.chain.input}: {list(shape)}, but sides must be multiples of {step}"
            )
        memory = self.gigabytes * 1e9 or math.inf
        return budget.divide(self.chain, shape, memory, self.device.enough)

    def _within_free_memory(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the latent planes of a slab, and the bytes for activations near the engine."""
        thickness, per_plane = self.thickness(shape), budget.engine_bytes(self.chain, shape)
        free = int(self.gigabytes * 1e9 or self.device.available() * self.device.share)
        if not self.gigabytes and thickness > 1 and thickness * per_plane > free:
            thickness = budget.divide(self.chain, shape, free, self.device.enough)
            self.warn(f"memory is short; trying slabs of {thickness}")
        return thickness, max(0, free - thickness * per_plane)


def _with_channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape [R, C, X, Y, Z] of an input, which may be labels [R, X, Y, Z]."""
    return (shape[0], 1, *shape[1:]) if len(shape) == 4 else shape
