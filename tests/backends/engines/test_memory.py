"""Errors for want of memory are recognized, and a second attempt follows."""

from __future__ import annotations

import errno

import pytest

from backends.engines import memory

OPENVINO = "Exception from src/inference/src/cpp/core.cpp:117:\n"


# As observed under a limit of the process's memory; for a GPU, as CUDA and TensorRT document them.
@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 36.0 MiB for an array"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError(f"{OPENVINO}Check 'ptr' failed\nFailed to allocate 116785152 bytes of memory"),
        RuntimeError(
            f"{OPENVINO}Exception from src/core/src/runtime/allocator.cpp\nstd::bad_alloc"
        ),
        RuntimeError(f"{OPENVINO}can't alloc\n\n"),
        RuntimeError(f"{OPENVINO}Resource temporarily unavailable\n\n"),
        RuntimeError("Non-zero status code returned while running Pow node. std::bad_alloc"),
        RuntimeError("cudaErrorMemoryAllocation: out of memory"),
        RuntimeError("tensorrt: Error Code 2: OutOfMemory (Requested size was 4831838208 bytes.)"),
    ],
)
def test_errors_for_want_of_memory_are_recognized(error: Exception) -> None:
    assert memory.out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EAGAIN, "Resource temporarily unavailable"),
        ValueError("latent: [1, 4, 40, 8, 8] is not within [1, 4, 8, 8, 8]"),
        RuntimeError(f"{OPENVINO}The input tensor size is not equal to the model input type"),
    ],
)
def test_other_errors_are_raised_at_once(error: Exception) -> None:
    calls = []

    def work() -> None:
        calls.append("work")
        raise error

    assert not memory.out_of_memory(error)
    with pytest.raises(type(error)) as caught:
        memory.twice(work, lambda: calls.append("forget"))
    assert caught.value is error
    assert calls == ["work"]


def test_memory_is_freed_before_the_second_attempt() -> None:
    calls = []

    def work() -> int:
        calls.append("work")
        if len(calls) == 1:
            raise MemoryError
        return 7

    assert memory.twice(work, lambda: calls.append("forget")) == 7
    assert calls == ["work", "forget", "work"]


def test_after_the_second_attempt_the_error_is_one_sentence() -> None:
    calls: list[str] = []

    def work() -> None:
        memory.expect(1 << 60)  # more than any address space has

    with pytest.raises(memory.OutOfMemory, match=r"^out of memory: the request was too large"):
        memory.twice(work, lambda: calls.append("forget"))
    assert calls == ["forget", "forget"]
    memory.expect(1 << 20)


def test_memory_that_is_free_is_available() -> None:
    available = memory.available()
    assert 10**7 < available < 10**14
    assert memory.is_free(10**6) and not memory.is_free(2 * available)
