"""A chain on a GPU. Its engines, allocations and copies share one stream, which orders them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..engines import Array, Target, channels_last, cuda, onnx_runtime, tensorrt
from ..engines.memory import out_of_memory
from . import chain
from .arena import Arena


class Gpu:
    """A GPU and its memory, with the host's memory for activations that do not fit."""

    enough = 2e9  # bytes; a larger slab is not faster
    share = 0.85  # of the free memory; activations on the host cross PCIe twice

    def __init__(self, device: int, cache: Path | None, by_onnx_runtime: bool = False) -> None:
        """Open the device with this number; raises ValueError without the device or CuPy.

        `cache` is TensorRT-RTX's folder of kernels. With `by_onnx_runtime`, ONNX Runtime runs the
        ONNX files, otherwise TensorRT runs the plans.
        """
        self.cupy = tensorrt.cupy()
        cuda.compute_capability(self.cupy, device)
        self.number, self.device, self.cache = device, self.cupy.cuda.Device(device), cache
        with self.device:
            self.stream = self.cupy.cuda.Stream(non_blocking=True)
        # Share it between subgraphs, because each would search the provider's libraries.
        self.onnx = onnx_runtime.gpu(device, self.stream) if by_onnx_runtime else None
        self.engines: list[tensorrt.Engine] = []

    def engine(self, stem: Path) -> chain.SubgraphEngine:
        """Return the engine of the subgraph at `stem`, a path without suffix.

        Raises the errors of `tensorrt.Engine` and `onnx_runtime.Engine`.
        """
        if self.onnx is not None:
            return OnnxSubgraphEngine(onnx_runtime.Engine(stem.with_suffix(".onnx"), self.onnx))
        plan = tensorrt.Engine(
            stem.parent, f"{stem.name}.plan", self.number, self.cache, self.stream
        )
        self.engines.append(plan)
        return PlanSubgraphEngine(plan)

    def forget(self) -> None:
        """Free all memory except that of the loaded networks."""
        cuda.empty_pools(self.cupy, self.device)

    def end(self) -> None:
        """Free the memory of the pools after a run, because other models use the same GPU."""
        self.forget()

    def available(self) -> int:
        """Return the bytes of free memory."""
        with self.device:
            free: int = self.cupy.cuda.runtime.memGetInfo()[0]
            return free + int(self.cupy.get_default_memory_pool().free_bytes())

    def arena(self, size: int) -> Arena:
        """Return an arena with `size` bytes of the GPU's memory."""
        return GpuArena(self, size)

    @contextmanager
    def ordered(self) -> Iterator[None]:
        """Make the stream current; at the end of the context, all work on it is complete."""
        with self.device, self.stream:
            try:
                yield
            finally:
                self.wait()
        for engine in self.engines:
            engine.save_new_kernels()

    def wait(self, event: Any = None) -> None:
        """Wait for the stream, or for an event on it; raises RuntimeError if work on it failed."""
        try:
            (event or self.stream).synchronize()
        except Exception:
            for engine in self.engines:  # the error does not name the one that failed
                engine.context = None
            raise

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an array in pinned memory of the host, or in other memory if that fails."""
        count = math.prod(shape)
        try:
            memory = self.cupy.cuda.alloc_pinned_memory(count * np.dtype(dtype).itemsize)
        except Exception as error:
            if not out_of_memory(error):
                raise
            return np.empty(shape, dtype)
        return np.frombuffer(memory, dtype, count).reshape(shape)


class OnnxSubgraphEngine:
    """An engine of ONNX Runtime with the interface for a chain."""

    def __init__(self, engine: onnx_runtime.Engine) -> None:
        """Wrap the engine."""
        self.engine = engine
        self.inputs: Mapping[str, Any] = {}

    def __call__(self, feeds: Mapping[str, Any], target: Target | None = None) -> dict[str, Any]:
        """Put a run on the stream; return the outputs, on the device, none of them in `target`."""
        self.inputs = feeds
        return self.engine.enqueue(feeds)

    def release(self) -> None:
        """Free the memory in the engine's arena."""
        if self.inputs:
            self.engine.shrink(self.inputs)
        self.inputs = {}


class PlanSubgraphEngine:
    """An engine of TensorRT with the interface for a chain."""

    def __init__(self, engine: tensorrt.Engine) -> None:
        """Wrap the engine."""
        self.engine = engine

    def __call__(self, feeds: Mapping[str, Any], target: Target | None = None) -> dict[str, Any]:
        """Put a run on the stream; return the outputs, on the GPU."""
        return self.engine.enqueue(feeds, target)

    def release(self) -> None:
        """Do nothing, because the memory is in CuPy's pool."""


class GpuArena(Arena):
    """An arena with near memory on the GPU and far memory on the host.

    Copies between them run on the GPU's stream.
    """

    def __init__(self, gpu: Gpu, budget: int) -> None:
        super().__init__(budget, gpu.cupy.empty, gpu.pinned)
        self.gpu = gpu

    def ordered(self) -> AbstractContextManager[None]:
        """Return the context of `Gpu.ordered`."""
        return self.gpu.ordered()

    def wait(self) -> None:
        """Wait until all work on the stream is complete."""
        self.gpu.wait()

    def mark(self) -> Callable[[], None]:
        """Return a function that waits until all work up to now is complete."""
        return partial(self.gpu.wait, self.gpu.stream.record())

    def bring(self, array: Any) -> Any:
        """Return an array on the GPU with the values of an array on the GPU or the host."""
        if not isinstance(array, np.ndarray):
            return array
        copy = self.new(array.shape, array.dtype, channels_last.is_innermost(array))
        self.copy(copy, array)
        return copy

    def read(self, array: Any) -> Array:
        """Return a copy on the host, which is complete when `wait` returns."""
        values = self.gpu.pinned(array.shape, array.dtype)
        self.copy(values, array)
        return values

    def copy(self, target: Any, source: Any) -> None:
        """Put a copy on the stream; between two arrays of the host, copy at once.

        Raises ValueError for arrays that are not evenly spaced rows of bytes.
        """
        to_host, from_host = (isinstance(array, np.ndarray) for array in (target, source))
        if to_host and from_host:
            self.gpu.wait()  # a copy from the GPU may still be writing the source
            target[...] = source
            return
        # CuPy's copy would compile a kernel, which needs CUDA's compiler and headers.
        runtime = self.gpu.cupy.cuda.runtime
        kind = runtime.memcpyDeviceToDevice
        if to_host or from_host:
            kind = runtime.memcpyDeviceToHost if to_host else runtime.memcpyHostToDevice
        width, height, target_pitch, source_pitch = copy_rows(target, source)
        runtime.memcpy2DAsync(
            _address(target),
            target_pitch,
            _address(source),
            source_pitch,
            width,
            height,
            kind,
            self.gpu.stream.ptr,
        )


def copy_rows(target: Any, source: Any) -> tuple[int, int, int, int]:
    """Return a copy's rows: their bytes, their number, and the pitch in bytes of both arrays.

    Raises ValueError for arrays of different shapes or types, and for other layouts.
    """
    if target.shape != source.shape or target.dtype != source.dtype:
        raise ValueError(
            f"a copy into {target.dtype} {list(target.shape)} needs the same type and shape, not"
            f" {source.dtype} {list(source.shape)}"
        )
    size = int(target.dtype.itemsize)
    # (length, strides in both arrays), innermost first; contiguous axes are merged.
    axes = [(size, 1, 1)]
    by_axis = zip(target.shape, target.strides, source.strides, strict=True)
    for length, *steps in sorted(by_axis, key=lambda axis: axis[1:]):
        inner, *inner_steps = axes[-1]
        if length == 1:
            continue
        if steps == [inner * step for step in inner_steps]:
            axes[-1] = (inner * length, *inner_steps)
        else:
            axes.append((length, *steps))
    if len(axes) > 2:
        raise ValueError(
            f"a copy of {list(target.shape)} with strides {target.strides} from {source.strides}"
            " is not a copy of evenly spaced rows"
        )
    height, target_pitch, source_pitch = axes[1] if len(axes) == 2 else (1, axes[0][0], axes[0][0])
    return axes[0][0], height, target_pitch, source_pitch


def _address(array: Any) -> int:
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)
