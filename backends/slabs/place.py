"""Where a chain runs: on the CPU or on a GPU, each with its engines and its memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..engines import channels_last, openvino, tensorrt
from ..engines.memory import first_that_fits
from . import budget, chain
from .room import Allocate, Room, in_files

Array = npt.NDArray[Any]


class Network:
    """A chain in its place, within a budget of memory."""

    def __init__(
        self,
        path: Path,
        place: Host | Gpu,
        gigabytes: float = 0,
        warn: Callable[[str], None] = print,
    ) -> None:
        """Load `chain.json` at `path`; `gigabytes` 0: half of what is free when it runs.

        `warn` is told when memory runs out and less is tried.

        Raises OSError, ValueError, KeyError, TypeError or RuntimeError for files that are missing
        or damaged.
        """
        self.place, self.gigabytes, self.warn = place, gigabytes, warn
        self.chain = chain.load(path, place.engine)

    def __call__(self, given: Array) -> Any:
        """Return the output [R, C, X, Y, Z] for an input [R, C, X, Y, Z], or labels [R, X, Y, Z].

        When memory runs out, activations leave it, and then slabs get thinner, down to one plane.
        Raises ValueError for sides that do not divide, OSError when the disk is full, OutOfMemory
        when one plane is too much, and RuntimeError when an engine fails.
        """
        x = given[:, None] if given.ndim == 4 else given
        name, step = self.chain.input, self.chain.planes[self.chain.input]
        if 0 in x.shape or any(side % step for side in x.shape[2:]):
            raise ValueError(f"{name}: {list(given.shape)}, but sides must be multiples of {step}")
        memory = int(self.gigabytes * 1e9) or self.place.available() // 2
        planned = budget.divide(self.chain, x.shape, memory, self.place.enough)

        def attempt(thickness: int, near: int) -> Any:
            if (thickness, near) != planned:
                self.warn(f"out of memory; trying slabs of {thickness} with activations elsewhere")
            return chain.run(self.chain, x, thickness, self.place.room(near))

        return first_that_fits(
            (partial(attempt, *plan) for plan in budget.thinner(*planned)),
            self.place.forget,
            f"{name} {list(given.shape)} was too large, even a plane at a time",
        )


def innermost(allocate: Allocate) -> Allocate:
    """Return what makes arrays [R, C, X, Y, Z] with C innermost in memory, as our engines do."""

    def made(shape: tuple[int, ...], dtype: Any) -> Array:
        rows, channels, *sides = shape
        array: Array = allocate((rows, *sides, channels), dtype).transpose(channels_last.FIRST)
        return array

    return made


class Host:
    """The CPU and its memory, with files for what does not fit."""

    enough = 150e6

    def __init__(self, spill: Path, threads: int, spill_gigabytes: float = 0) -> None:
        """Keep where files go, how much of them, and how many threads engines have.

        `spill_gigabytes` 0: half of what is free there when a request runs.
        """
        self.spill, self.threads, self.spill_gigabytes = spill, threads, spill_gigabytes
        self.engines: list[openvino.Engine] = []

    def engine(self, stem: Path) -> chain.Engine:
        """Load a stage by its path without suffix."""
        path = stem.with_suffix(".onnx")
        self.engines.append(openvino.Engine(path, self.threads, innermost=True))
        return self.engines[-1]

    def forget(self) -> None:
        """Give back all memory but that of the networks themselves."""
        for engine in self.engines:
            engine.forget()

    def available(self) -> int:
        """Return the bytes to be had."""
        return budget.available()

    def room(self, size: int) -> Room:
        """Return a room with `size` bytes of memory."""
        limit = self.spill_gigabytes * 1e9 or shutil.disk_usage(self.spill).free / 2
        return Room(size, innermost(np.empty), innermost(in_files(self.spill)), far_limit=limit)


class Gpu:
    """A GPU and its memory, with the host's for what does not fit.

    Plans, copies and memory share one stream, which orders them.
    """

    enough = 2e9

    def __init__(self, device: int, cache: Path | None) -> None:
        """Take a device by its number; raise ValueError where there is none, or no CuPy."""
        self.cupy = tensorrt.library("cupy", f"pip install {tensorrt.CUPY}")
        tensorrt.compute_capability(self.cupy, device)
        self.number, self.device, self.cache = device, self.cupy.cuda.Device(device), cache
        with self.device:
            self.stream = self.cupy.cuda.Stream(non_blocking=True)
        self.engines: list[tensorrt.Engine] = []

    def engine(self, stem: Path) -> chain.Engine:
        """Load a stage by its path without suffix."""
        plan = tensorrt.Engine(
            stem.parent, f"{stem.name}.plan", self.number, self.cache, self.stream
        )
        self.engines.append(plan)
        return OnGpu(plan)

    def forget(self) -> None:
        """Give back all memory but that of the plans themselves."""
        tensorrt.empty_pools(self.cupy, self.device)

    def available(self) -> int:
        """Return the bytes to be had."""
        with self.device:
            free: int = self.cupy.cuda.runtime.memGetInfo()[0]
            return free + int(self.cupy.get_default_memory_pool().free_bytes())

    def room(self, size: int) -> Room:
        """Return a room with `size` bytes of memory."""
        return Room(size, self.cupy.empty, np.empty, self.cupy.asarray, ordered=self.ordered)

    @contextmanager
    def ordered(self) -> Iterator[None]:
        """Make the stream current; when this ends, all that was put on it has run."""
        with self.device, self.stream:
            try:
                yield
            finally:
                self.wait()
        for engine in self.engines:
            engine.keep_new()

    def wait(self) -> None:
        """Wait for the stream; raise RuntimeError when something on it failed."""
        try:
            self.stream.synchronize()
        except Exception:
            for engine in self.engines:  # which one failed is not said
                engine.context = None
            raise


class OnGpu:
    """A plan as a chain calls it."""

    def __init__(self, engine: tensorrt.Engine) -> None:
        """Take the plan over."""
        self.engine = engine

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run it; outputs stay on the GPU but for the moments, which are few numbers."""
        found = self.engine.enqueue(feeds)
        return {name: array.get() if array.ndim == 1 else array for name, array in found.items()}

    def release(self) -> None:
        """Nothing is held: memory is the pool's."""
