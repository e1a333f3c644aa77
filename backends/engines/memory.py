"""What engines say when memory runs out, and what is done then."""

from __future__ import annotations

import ctypes
import errno
import mmap
from collections.abc import Callable, Iterable
from typing import TypeVar

Result = TypeVar("Result")

# What an engine's error says then. Each was seen, by a limit of the process's memory; those of CUDA
# are as its reference of errors (cudaErrorMemoryAllocation) and TensorRT's log have them.
_SAID = (
    "std::bad_alloc",  # any library of C++
    "Failed to allocate ",  # OpenVINO's arrays, ONNX Runtime's arena
    "can't alloc",  # oneDNN, for a kernel that it compiles
    "cudaErrorMemoryAllocation",
    "out of memory",  # CUDA
    "OutOfMemory",  # TensorRT
)
AGAIN = 10  # seconds after which there may be memory
SPARE = 48 << 20  # bytes that any run takes beside its arrays
_NO_THREAD = "Resource temporarily unavailable"  # nor memory for its stack


class OutOfMemory(MemoryError):
    """It did not fit, whatever was tried; the sentence is for the caller."""


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of an engine, numpy, CuPy or the system means that memory ran out."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError):
        return True
    said = str(error)
    ours = "Exception from src/" in said and _NO_THREAD in said
    return ours or any(words in said for words in _SAID)


def expect(size: int) -> None:
    """Raise OSError, which `out_of_memory` knows, unless so many bytes can be had right now."""
    mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()


def trim() -> None:
    """Give back what has been freed, and glibc would keep for the threads that freed it."""
    ctypes.CDLL(None).malloc_trim(0)


def first_that_fits(
    attempts: Iterable[Callable[[], Result]], forget: Callable[[], None], sentence: str
) -> Result:
    """Return what the first of `attempts` gives that has memory enough; `forget` after the others.

    Raises OutOfMemory with the sentence when none has, and any other error as it comes.
    """
    for attempt in attempts:
        try:
            return attempt()
        except Exception as error:
            if not out_of_memory(error):
                raise
        forget()  # now that the error has gone, and with it what the attempt had
    raise OutOfMemory(f"out of memory: {sentence}; try again in {AGAIN} s")


def twice(work: Callable[[], Result], forget: Callable[[], None]) -> Result:
    """Return what `work` gives, at the second try where memory ran out at the first.

    Raises OutOfMemory when it ran out again, and any other error as it comes.
    """
    return first_that_fits((work, work), forget, "the request was too large for what is free")
