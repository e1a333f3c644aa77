"""Streams and memory on the CPU, with the order that CUDA guarantees and no more.

Work on a stream runs when something waits for it: in order within the stream, and between streams
only by events and the null stream's rules. Pools reuse freed memory at once, as CuPy's do, also
where work on it has not run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

UNIT = 512  # bytes, of which blocks of a pool are multiples


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

    def __init__(self, cuda: Any, non_blocking: bool = False) -> None:
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
    """A pool of `capacity` bytes; a freed block is reused by its stream alone."""

    def __init__(self, cuda: Any, capacity: int, full: Callable[[str], Exception]) -> None:
        self.cuda, self.capacity, self.full = cuda, capacity, full
        self.segments: dict[int, np.ndarray] = {}
        self.cached: list[tuple[int, np.ndarray]] = []
        self.allocated = 0  # number of allocations that reused no block
        self.used = self.most = 0  # bytes in use, now and at most

    def take(self, size: int, stream: int) -> np.ndarray:
        size = max(-(-size // UNIT), 1) * UNIT
        fits = [
            (segment.nbytes, index)
            for index, (owner, segment) in enumerate(self.cached)
            if owner == stream and segment.nbytes >= size
        ]
        if fits:
            return self.cached.pop(max(fits)[1])[1]  # the largest, whose reuse shows most errors
        if self.total_bytes() + size > self.capacity:
            self.free_all_blocks()
        if self.total_bytes() + size > self.capacity:
            raise self.full(f"cudaErrorMemoryAllocation: out of memory allocating {size} bytes")
        memory = np.full(size + UNIT, 0xFF, np.uint8)  # NaN in every float type
        start = -address(memory) % UNIT  # CUDA's memory is aligned
        segment = memory[start : start + size]
        self.segments[address(segment)] = segment
        self.allocated += 1
        return segment

    def total_bytes(self) -> int:
        return sum(segment.nbytes for segment in self.segments.values())

    def free_bytes(self) -> int:
        return sum(segment.nbytes for _, segment in self.cached)

    def free_all_blocks(self) -> None:
        for stream in self.cuda.streams:  # as cudaFree waits for the device
            stream.synchronize()
        for _, segment in self.cached:
            del self.segments[address(segment)]
        self.cached.clear()

    def find(self, begin: int, size: int) -> np.ndarray | None:
        """Return the bytes at an address of this pool, None for another address."""
        for base, segment in self.segments.items():
            if base <= begin and begin + size <= base + segment.nbytes:
                return segment[begin - base : begin - base + size]
        return None


class Block:
    """A block of a pool, freed with its last reference."""

    def __init__(self, pool: Pool, size: int, stream: int) -> None:
        self.pool, self.size, self.stream = pool, size, stream
        self.segment = pool.take(size, stream)
        self.ptr = address(self.segment)
        pool.used += size
        pool.most = max(pool.most, pool.used)

    def __del__(self) -> None:
        if hasattr(self, "segment"):
            self.pool.used -= self.size
            self.pool.cached.append((self.stream, self.segment))
