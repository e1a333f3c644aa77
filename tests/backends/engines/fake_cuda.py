"""CUDA as CuPy offers it, on the CPU, with the order that CUDA promises and no more.

Work on a stream runs when something waits for it: in order within the stream, and in no order with
other streams but for events and the null stream's rules. Pools hand out freed memory at once, as
CuPy's do. Arrays of the device cannot be read by numpy.
"""

from __future__ import annotations

import ctypes
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

UNIT = 512  # bytes, of which blocks of a pool are multiples
HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3  # cudaMemcpyKind


class CUDARuntimeError(RuntimeError):
    """An error of CUDA; `status` is its number."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class OutOfMemoryError(MemoryError):
    """CuPy's, of the device's memory."""


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


@dataclass(frozen=True)
class Event:
    """The first `count` pieces of a stream's work."""

    stream: Stream
    count: int

    @property
    def done(self) -> bool:
        return self.stream.done >= self.count

    def synchronize(self) -> None:
        self.stream.run(self.count)


class Stream:
    """A queue of work. `ptr` 0: the null stream, ordered with all but non-blocking streams."""

    def __init__(self, cuda: Cuda, non_blocking: bool = False) -> None:
        self.cuda, self.non_blocking, self.ptr = cuda, non_blocking, len(cuda.streams)
        self.queue: deque[tuple[Callable[[], None], list[Event]]] = deque()
        self.added = self.done = 0
        self.outer: list[Stream] = []
        cuda.streams.append(self)

    def __enter__(self) -> Stream:
        self.outer.append(self.cuda.current)
        self.cuda.current = self
        return self

    def __exit__(self, *error: object) -> None:
        self.cuda.current = self.outer.pop()

    def add(self, work: Callable[[], None]) -> None:
        null, *others = self.cuda.streams
        ordered = [] if self.non_blocking else [null]
        if self is null:
            ordered = [stream for stream in others if not stream.non_blocking]
        self.queue.append((work, [stream.record() for stream in ordered]))
        self.added += 1

    def run(self, count: int) -> None:
        while self.done < count:
            work, earlier = self.queue.popleft()
            for event in earlier:
                event.synchronize()
            self.done += 1
            work()

    def record(self) -> Event:
        return Event(self, self.added)

    def wait_event(self, event: Event) -> None:
        self.add(event.synchronize)

    def synchronize(self) -> None:
        self.run(self.added)


class Pool:
    """A pool over `capacity` bytes; blocks freed by a stream's user are that stream's next ones."""

    def __init__(self, cuda: Cuda, capacity: int, full: Callable[[str], Exception]) -> None:
        self.cuda, self.capacity, self.full = cuda, capacity, full
        self.segments: dict[int, np.ndarray] = {}
        self.cached: list[tuple[int, np.ndarray]] = []
        self.allocated = 0  # times that the pool's own memory did not do

    def take(self, size: int, stream: int) -> np.ndarray:
        size = max(-(-size // UNIT), 1) * UNIT
        fits = [
            (segment.nbytes, index)
            for index, (owner, segment) in enumerate(self.cached)
            if owner == stream and segment.nbytes >= size
        ]
        if fits:
            return self.cached.pop(min(fits)[1])[1]
        if self.total_bytes() + size > self.capacity:
            self.free_all_blocks()
        if self.total_bytes() + size > self.capacity:
            raise self.full(f"cudaErrorMemoryAllocation: out of memory allocating {size} bytes")
        segment = np.full(size, 0xFF, np.uint8)  # NaN, whatever float it is taken for
        self.segments[address(segment)] = segment
        self.allocated += 1
        return segment

    def total_bytes(self) -> int:
        return sum(segment.nbytes for segment in self.segments.values())

    def free_bytes(self) -> int:
        return sum(segment.nbytes for _, segment in self.cached)

    def free_all_blocks(self) -> None:
        for stream in self.cuda.streams:  # cudaFree waits for the device, which CuPy relies on
            stream.synchronize()
        for _, segment in self.cached:
            del self.segments[address(segment)]
        self.cached.clear()

    def find(self, begin: int, size: int) -> np.ndarray | None:
        """Return the bytes at an address of this memory, None for an address of another one."""
        for base, segment in self.segments.items():
            if base <= begin and begin + size <= base + segment.nbytes:
                return segment[begin - base : begin - base + size]
        return None


class Block:
    """A block of a pool, until nothing refers to it."""

    def __init__(self, pool: Pool, size: int, stream: int) -> None:
        self.pool, self.stream = pool, stream
        self.segment = pool.take(size, stream)
        self.ptr = address(self.segment)

    def __del__(self) -> None:
        if hasattr(self, "segment"):
            self.pool.cached.append((self.stream, self.segment))


class Pinned(np.ndarray):
    """A block of the host's pinned memory, as bytes."""

    block: Block


class Array:
    """An array of CuPy: `view` is what the device sees of `block`."""

    def __init__(self, cuda: Cuda, block: Block, view: np.ndarray) -> None:
        self.cuda, self.block, self.view = cuda, block, view
        self.shape, self.strides, self.dtype = view.shape, view.strides, view.dtype
        self.ndim, self.size, self.nbytes = view.ndim, view.size, view.nbytes
        self.flags, self.data = view.flags, SimpleNamespace(ptr=address(view), mem=block)

    def __array__(self, *_: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __getitem__(self, key: Any) -> Array:
        return Array(self.cuda, self.block, self.view[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(value, Array):
            raise TypeError(f"Unsupported type {type(value)}")
        target, source = self.view[key], value.view
        self.cuda.current.add(lambda: np.copyto(target, source))

    def get(self) -> np.ndarray:
        found, view = np.empty(self.shape, self.dtype), self.view
        self.cuda.current.add(lambda: np.copyto(found, view))
        self.cuda.current.synchronize()
        return found


class Device:
    """The only one."""

    compute_capability = "86"

    def __init__(self, number: int) -> None:
        self.id = number

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *error: object) -> None:
        """It stays the current one."""


class Cuda:
    """A device with its memory, the host's pinned memory, and CuPy over them in `cupy`."""

    def __init__(self, capacity: int = 1 << 30, pinned: int = 1 << 30) -> None:
        self.streams: list[Stream] = []
        self.current = Stream(self)
        self.memory = Pool(self, capacity, OutOfMemoryError)
        self.pinned = Pool(self, pinned, lambda text: CUDARuntimeError(text, 2))
        self.watched: list[tuple[Event, Pinned]] = []
        self.cupy = SimpleNamespace(
            ndarray=Array,
            empty=self.empty,
            asarray=self.asarray,
            ascontiguousarray=self.ascontiguousarray,
            get_default_memory_pool=lambda: self.memory,
            get_default_pinned_memory_pool=lambda: self.pinned,
            cuda=SimpleNamespace(
                Device=Device,
                Stream=lambda non_blocking=False: Stream(self, non_blocking),
                alloc=lambda size: Block(self.memory, size, self.current.ptr),
                alloc_pinned_memory=self.alloc_pinned_memory,
                runtime=SimpleNamespace(
                    getDeviceCount=lambda: 1,
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
        return self.memory.capacity - self.memory.total_bytes(), self.memory.capacity

    def empty(self, shape: Sequence[int], dtype: Any) -> Array:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        block = Block(self.memory, size, self.current.ptr)
        return Array(self, block, block.segment[:size].view(dtype).reshape(shape))

    def alloc_pinned_memory(self, size: int) -> Pinned:
        self.watched = [(event, memory) for event, memory in self.watched if not event.done]
        block = Block(self.pinned, size, 0)
        memory = block.segment.view(Pinned)
        memory.block = block
        return memory

    def asarray(self, array: Any) -> Array:
        """Upload as CuPy does: by pinned memory, which is held until the copy has run."""
        if isinstance(array, Array):
            return array
        made = self.empty(array.shape, array.dtype)
        try:
            pinned = self.alloc_pinned_memory(array.nbytes)
        except CUDARuntimeError:
            self.current.add(lambda: np.copyto(made.view, array))
            self.current.synchronize()
            return made
        staged = pinned.block.segment[: array.nbytes].view(array.dtype).reshape(array.shape)
        staged[...] = array
        self.current.add(lambda: np.copyto(made.view, staged))
        self.watched.append((self.current.record(), pinned))
        return made

    def ascontiguousarray(self, array: Any) -> Array:
        array = self.asarray(array)
        if array.flags.c_contiguous:
            return array
        made = self.empty(array.shape, array.dtype)
        made[...] = array
        return made

    def on_device(self, begin: int, size: int) -> np.ndarray:
        """Return the bytes at an address; raise for what is no memory of the device."""
        found = self.memory.find(begin, size)
        if found is None:
            raise CUDARuntimeError("cudaErrorIllegalAddress: no memory of the device", 700)
        return found

    def on_host(self, begin: int, size: int) -> np.ndarray:
        """Return the bytes at an address; raise for what is memory of the device."""
        if self.memory.find(begin, 1) is not None:
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
        """Copy `height` rows of `width` bytes; what is pageable is copied before this returns."""
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
