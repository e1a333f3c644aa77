"""CuPy over the fake of CUDA: arrays that numpy cannot read, uploads by pinned memory, copies.

There are two devices, and work on one cannot use the memory of the other. Operations for which CuPy
would compile a kernel raise KernelError.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tests.backends.engines.fake_cuda import (
    Block,
    CUDARuntimeError,
    Event,
    OutOfMemoryError,
    Pool,
    Stream,
    address,
)

HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3  # cudaMemcpyKind


class KernelError(Exception):
    """CuPy would compile a kernel here, which needs CUDA's compiler and headers."""


class Pointer:
    """Memory of a device, from an address on."""

    def __init__(self, cuda: Cuda, block: Block, ptr: int) -> None:
        self.ptr, self.mem = ptr, block
        self.device_id, self.memory = cuda.memories.index(block.pool), block.pool

    def copy_from_device_async(self, source: Pointer, size: int, stream: Stream) -> None:
        target, data = self.memory.find(self.ptr, size), source.memory.find(source.ptr, size)
        stream.add(lambda: np.copyto(target, data))


class Array:
    """An array of CuPy: `view` is its part of `block` as an array of numpy."""

    def __init__(self, cuda: Cuda, block: Block, view: np.ndarray) -> None:
        self.cuda, self.block, self.view = cuda, block, view
        self.shape, self.strides, self.dtype = view.shape, view.strides, view.dtype
        self.ndim, self.size, self.nbytes = view.ndim, view.size, view.nbytes
        self.flags, self.data = view.flags, Pointer(cuda, block, address(view))
        self.device = Device(cuda, self.data.device_id)

    def transpose(self, axes: Sequence[int]) -> Array:
        return Array(self.cuda, self.block, self.view.transpose(axes))

    def __array__(self, *_: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __getitem__(self, key: Any) -> Array:
        return Array(self.cuda, self.block, self.view[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        raise KernelError("a copy of elements")

    def astype(self, dtype: Any) -> Array:
        raise KernelError("a cast")

    def get(self) -> np.ndarray:
        if not self.flags.c_contiguous:
            raise KernelError("a copy of elements")
        copy, view = np.empty(self.shape, self.dtype), self.view
        self.cuda.current.add(lambda: np.copyto(copy, view))
        self.cuda.current.synchronize()
        return copy


class Device:
    """One of the two devices."""

    compute_capability = "86"

    def __init__(self, cuda: Cuda, number: int) -> None:
        self.cuda, self.id = cuda, number
        self.outer: list[int] = []

    def __enter__(self) -> Device:
        self.outer.append(self.cuda.device)
        self.cuda.device = self.id
        return self

    def __exit__(self, *error: object) -> None:
        self.cuda.device = self.outer.pop()


class Cuda:
    """Devices with their memory, the host's pinned memory, and CuPy over them in `cupy`.

    `memory` is that of device 0.
    """

    def __init__(self, capacity: int = 1 << 30, pinned: int = 1 << 30) -> None:
        self.streams: list[Stream] = []
        self.current = Stream(self)
        self.memories = [Pool(self, capacity, OutOfMemoryError) for _ in range(2)]
        self.memory, self.device = self.memories[0], 0
        self.pinned = Pool(self, pinned, lambda text: CUDARuntimeError(text, 2))
        self.watched: list[tuple[Event, Any]] = []
        self.cupy = SimpleNamespace(
            ndarray=Array,
            empty=self.empty,
            asarray=self.asarray,
            ascontiguousarray=self.ascontiguousarray,
            get_default_memory_pool=lambda: self.memories[self.device],
            get_default_pinned_memory_pool=lambda: self.pinned,
            cuda=SimpleNamespace(
                Device=lambda number: Device(self, number),
                Stream=lambda non_blocking=False: Stream(self, non_blocking),
                alloc=lambda size: Block(self.memories[self.device], size, self.current.ptr),
                alloc_pinned_memory=self.alloc_pinned_memory,
                runtime=SimpleNamespace(
                    getDeviceCount=lambda: len(self.memories),
                    CUDARuntimeError=CUDARuntimeError,
                    memGetInfo=self.memory_info,
                    memcpy2DAsync=self.memcpy2d,
                    memcpyHostToDevice=HOST_TO_DEVICE,
                    memcpyDeviceToHost=DEVICE_TO_HOST,
                    memcpyDeviceToDevice=DEVICE_TO_DEVICE,
                ),
            ),
        )

    def memory_info(self) -> tuple[int, int]:
        memory = self.memories[self.device]
        return memory.capacity - memory.total_bytes(), memory.capacity

    def empty(self, shape: Sequence[int], dtype: Any) -> Array:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        block = Block(self.memories[self.device], size, self.current.ptr)
        return Array(self, block, block.segment[:size].view(dtype).reshape(shape))

    def alloc_pinned_memory(self, size: int) -> Any:
        self.watched = [(event, memory) for event, memory in self.watched if not event.done]
        block = Block(self.pinned, size, 0)
        kind = type("PinnedMemoryPointer", (ctypes.c_uint8 * block.segment.nbytes,), {})
        memory = kind.from_buffer(block.segment)
        memory.block, memory.ptr = block, block.ptr
        return memory

    def asarray(self, array: Any) -> Array:
        """Upload as CuPy does: by pinned memory, which is freed when the copy has run."""
        if isinstance(array, Array):
            return array
        if array.ndim == 0:
            raise KernelError("an array filled with a value")
        array_on_device = self.empty(array.shape, array.dtype)
        try:
            pinned = self.alloc_pinned_memory(array.nbytes)
        except CUDARuntimeError:
            self.current.add(lambda: np.copyto(array_on_device.view, array))
            self.current.synchronize()
            return array_on_device
        staging = pinned.block.segment[: array.nbytes].view(array.dtype).reshape(array.shape)
        staging[...] = array
        self.current.add(lambda: np.copyto(array_on_device.view, staging))
        self.watched.append((self.current.record(), pinned))
        return array_on_device

    def ascontiguousarray(self, array: Any) -> Array:
        converted = self.asarray(array)
        if converted.flags.c_contiguous:
            return converted
        raise KernelError("a copy of elements")

    def on_device(self, begin: int, size: int) -> np.ndarray:
        """Return the bytes at an address; raise for an address outside of the current device."""
        memory = self.memories[self.device].find(begin, size)
        if memory is None:
            raise CUDARuntimeError("cudaErrorIllegalAddress: no memory of the device", 700)
        return memory

    def on_host(self, begin: int, size: int) -> np.ndarray:
        """Return the bytes at an address; raise for an address on a device."""
        if any(memory.find(begin, 1) is not None for memory in self.memories):
            raise CUDARuntimeError("cudaErrorInvalidValue: memory of the device", 1)
        pinned = self.pinned.find(begin, size)
        if pinned is not None:
            return pinned
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(begin))

    def memcpy2d(
        self,
        dst: int,
        dst_pitch: int,
        src: int,
        src_pitch: int,
        width: int,
        height: int,
        kind: int,
        stream: int,
    ) -> None:
        """Copy `height` rows of `width` bytes; pageable memory is copied before this returns."""
        if height > 1 and min(dst_pitch, src_pitch) < width:
            raise CUDARuntimeError("cudaErrorInvalidPitchValue: invalid pitch argument", 12)

        def rows(begin: int, pitch: int, on_host: bool) -> np.ndarray:
            find = self.on_host if on_host else self.on_device
            return as_strided(
                find(begin, pitch * (height - 1) + width), (height, width), (pitch, 1)
            )

        target = rows(dst, dst_pitch, kind == DEVICE_TO_HOST)
        source = rows(src, src_pitch, kind == HOST_TO_DEVICE)
        if kind == HOST_TO_DEVICE and self.pinned.find(src, 1) is None:
            source = source.copy()
        self.streams[stream].add(lambda: np.copyto(target, source))
        if kind == DEVICE_TO_HOST and self.pinned.find(dst, 1) is None:
            self.streams[stream].synchronize()
