"""Measure free memory, recognise errors of insufficient memory, and try again with less."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from . import cgroup

Result = TypeVar("Result")

# Parts of the messages of such errors. Each was observed under a limit of the process's memory;
# those of CUDA are from its reference (cudaErrorMemoryAllocation) and TensorRT's log.
_MESSAGES = (
    "std::bad_alloc",  # any library of C++
    "Failed to allocate ",  # OpenVINO's arrays, ONNX Runtime's arena
    "can't alloc",  # oneDNN, for a kernel that it compiles
    "cudaErrorMemoryAllocation",
    "out of memory",  # CUDA
    "OutOfMemory",  # TensorRT
)
_RETRY = 10  # seconds after which there may be enough memory
SPARE = 48 << 20  # bytes that a run needs in addition to its arrays
_NO_THREAD = "Resource temporarily unavailable"  # a thread's stack did not fit


class OutOfMemory(MemoryError):
    """No attempt had enough memory; the message is one sentence for the caller."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error of an engine, numpy, CuPy or the system means that memory ran out."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError):
        return True
    message = str(error)
    no_thread = "Exception from src/" in message and _NO_THREAD in message  # from OpenVINO
    return no_thread or any(part in message for part in _MESSAGES)


def available() -> int:
    """Return the bytes of free memory within the limits of the system and of control groups."""
    free = _meminfo("MemAvailable")
    allowed = cgroup.memory()
    return max(free if allowed is None else min(free, allowed), 0)


def _meminfo(name: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def expect(size: int) -> None:
    """Raise OSError with ENOMEM unless `size` bytes can be allocated now."""
    mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()


def is_free(size: int) -> bool:
    """Return whether `size` bytes are free and can be allocated now."""
    try:
        expect(size)
    except OSError:
        return False
    return size <= available()


def trim() -> None:
    """Return memory to the system that was freed but that glibc keeps for its threads."""
    ctypes.CDLL(None).malloc_trim(0)


def first_that_fits(
    attempts: Iterable[Callable[[], Result]], forget: Callable[[], None], sentence: str
) -> Result:
    """Return the result of the first attempt with enough memory; call `forget` after a failure.

    Raises OutOfMemory with the sentence if no attempt has enough memory, and any other error at
    once.
    """
    for attempt in attempts:
        try:
            return attempt()
        except Exception as error:
            if not out_of_memory(error):
                raise
        forget()  # after the `except` block, because the error refers to the attempt's arrays
    raise OutOfMemory(f"out of memory: {sentence}; try again in {_RETRY} s")


def twice(work: Callable[[], Result], forget: Callable[[], None]) -> Result:
    """Return the result of `work`, which is repeated once if it ran out of memory.

    Raises OutOfMemory if the second run also does, and any other error at once.
    """
    return first_that_fits((work, work), forget, "the request was too large for what is free")
