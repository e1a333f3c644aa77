"""A chain on a device within a budget of memory, and the CPU as such a device."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..engines import Array, channels_last, onnx_runtime, openvino
from ..engines.memory import first_that_fits
from . import budget, chain
from .arena import Allocate, Arena, in_files
from .gpu import Gpu, OnnxStageEngine


class Network:
    """A network that export has cut into a chain, on a device, within a budget of memory."""

    def __init__(
        self,
        path: Path,
        device: Host | Gpu,
        gigabytes: float = 0,
        warn: Callable[[str], None] = print,
    ) -> None:
        """Load `chain.json` at `path`; `gigabytes` 0: the device's share of its free memory.

        `warn(sentence)` is called when memory runs out, before each further attempt. Raises
        OSError, ValueError, KeyError, TypeError or RuntimeError for files that are missing or
        damaged.
        """
        self.device, self.gigabytes, self.warn = device, gigabytes, warn
        self.chain = chain.load(path, device.engine)

    def __call__(self, array: Array) -> Any:
        """Return the output [R, C, X, Y, Z] for an input [R, C, X, Y, Z], or labels [R, X, Y, Z].

        When memory runs out, activations go far, and then slabs get thinner, down to one plane.
        Raises ValueError for sides that are no multiples, OSError when the disk is full,
        OutOfMemory when one plane is too much, and RuntimeError when an engine fails.
        """
        x = array[:, None] if array.ndim == 4 else array
        name, step = self.chain.input, self.chain.planes[self.chain.input]
        if 0 in x.shape or any(side % step for side in x.shape[2:]):
            raise ValueError(f"{name}: {list(array.shape)}, but sides must be multiples of {step}")
        memory = int(self.gigabytes * 1e9 or self.device.available() * self.device.share)
        planned = budget.divide(self.chain, x.shape, memory, self.device.enough)

        def attempt(thickness: int, near: int) -> Any:
            if (thickness, near) != planned:
                self.warn(f"out of memory; trying slabs of {thickness} with activations elsewhere")
            return chain.run(self.chain, x, thickness, self.device.arena(near))

        try:
            return first_that_fits(
                (partial(attempt, *plan) for plan in budget.attempts(*planned)),
                self.device.forget,
                f"{name} {list(array.shape)} was too large, even a plane at a time",
            )
        finally:
            self.device.end()


def innermost(allocate: Allocate) -> Allocate:
    """Return an allocator of arrays [R, C, X, Y, Z] with C innermost in memory."""

    def allocate_innermost(shape: tuple[int, ...], dtype: Any) -> Array:
        rows, channels, *sides = shape
        array: Array = allocate((rows, *sides, channels), dtype).transpose(channels_last.FIRST)
        return array

    return allocate_innermost


class Host:
    """The CPU and its memory, with files for activations that do not fit."""

    enough = 150e6  # bytes of a slab above which it is no faster
    share = 0.5  # of the free memory

    def __init__(
        self, spill: Path, threads: int, spill_gigabytes: float = 0, by_onnx_runtime: bool = False
    ) -> None:
        """Set the folder of files and their limit, and the number of threads of an engine.

        `spill_gigabytes` 0: half of the space that is free there when a request runs;
        `by_onnx_runtime`: ONNX Runtime runs the stages, else OpenVINO.
        """
        self.spill, self.threads, self.spill_gigabytes = spill, threads, spill_gigabytes
        self.by_onnx_runtime = by_onnx_runtime
        self.engines: list[openvino.Engine] = []

    def engine(self, stem: Path) -> chain.StageEngine:
        """Load a stage by its path without suffix."""
        path = stem.with_suffix(".onnx")
        if self.by_onnx_runtime:
            return OnnxStageEngine(onnx_runtime.Engine(path, onnx_runtime.cpu(self.threads)))
        self.engines.append(openvino.Engine(path, self.threads, innermost=True))
        return self.engines[-1]

    def forget(self) -> None:
        """Free all memory but that of the loaded networks."""
        for engine in self.engines:
            engine.forget()

    def end(self) -> None:
        """Do nothing: each stage has freed its memory."""

    def available(self) -> int:
        """Return the bytes of free memory."""
        return budget.available()

    def arena(self, size: int) -> Arena:
        """Return an arena with `size` bytes of memory."""
        limit = self.spill_gigabytes * 1e9 or shutil.disk_usage(self.spill).free / 2
        near, far = np.empty, in_files(self.spill)
        if self.by_onnx_runtime:
            return Arena(size, near, far, far_limit=limit)
        return Arena(size, innermost(near), innermost(far), far_limit=limit)
