"""The fake of CUDA has CUDA's rules: the order of work, waits, and memory of devices and host."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.backends.engines.fake_cuda import CUDARuntimeError, OutOfMemoryError
from tests.backends.engines.fake_cupy import (
    DEVICE_TO_HOST,
    HOST_TO_DEVICE,
    Array,
    Cuda,
    KernelError,
)

ONES = np.ones(200, np.float32)


@pytest.fixture
def cuda() -> Cuda:
    return Cuda()


def stream(cuda: Cuda, non_blocking: bool) -> Any:
    return cuda.cupy.cuda.Stream(non_blocking=non_blocking)


def copy_to_host(cuda: Cuda, target: np.ndarray, source: Array, stream: int) -> None:
    ends = target.__array_interface__["data"][0], source.data.ptr
    size = source.nbytes
    cuda.memcpy2d(ends[0], size, ends[1], size, size, 1, DEVICE_TO_HOST, stream)


def test_work_runs_when_its_stream_is_waited_for(cuda: Cuda) -> None:
    array = cuda.asarray(ONES)
    assert np.isnan(array.view).all()
    cuda.current.synchronize()
    assert (array.view == 1).all()


@pytest.mark.parametrize("non_blocking", [False, True])
def test_the_null_stream_is_ordered_with_blocking_streams_alone(
    cuda: Cuda, non_blocking: bool
) -> None:
    other_stream = stream(cuda, non_blocking)
    array = cuda.asarray(ONES)  # on the null stream
    with other_stream:
        assert np.isnan(array.get()).all() == non_blocking
        second = cuda.asarray(2 * ONES)
    assert np.isnan(second.get()).all() == non_blocking


def test_an_event_orders_two_streams(cuda: Cuda) -> None:
    first, second = stream(cuda, True), stream(cuda, True)
    with first:
        array = cuda.asarray(ONES)
    event = first.record()
    with second:
        assert np.isnan(array.get()).all() and not event.done
        second.wait_event(event)
        assert (array.get() == 1).all() and event.done


def test_memory_of_the_device_and_of_the_host_do_not_mix(cuda: Cuda) -> None:
    array = cuda.empty((200,), np.float32)
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(array)
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.empty(200, np.float32)[...] = array
    begin = ONES.__array_interface__["data"][0]
    with pytest.raises(CUDARuntimeError, match="cudaErrorIllegalAddress"):
        cuda.memcpy2d(begin, 8, begin, 8, 8, 1, HOST_TO_DEVICE, 0)
    with pytest.raises(CUDARuntimeError, match="cudaErrorInvalidValue"):
        cuda.memcpy2d(array.data.ptr, 8, array.data.ptr, 8, 8, 1, HOST_TO_DEVICE, 0)


def test_memory_of_two_devices_does_not_mix(cuda: Cuda) -> None:
    array, (one, other) = cuda.asarray(ONES), map(cuda.cupy.cuda.Device, (0, 1))
    with other:
        with pytest.raises(CUDARuntimeError, match="cudaErrorIllegalAddress"):
            cuda.on_device(array.data.ptr, ONES.nbytes)
        with one:
            cuda.on_device(array.data.ptr, ONES.nbytes)
        copied = cuda.empty(ONES.shape, ONES.dtype)
        copied.data.copy_from_device_async(array.data, ONES.nbytes, cuda.current)
        assert (copied.device.id, array.device.id) == (1, 0)
        assert (copied.get() == 1).all()


def test_operations_that_need_a_kernel_fail(cuda: Cuda) -> None:
    array = cuda.asarray(np.ones((4, 6), np.float32))
    for operation in (
        lambda: array[:, 1:].get(),
        lambda: array.__setitem__((slice(None), 0), array[:, 1]),
        lambda: cuda.ascontiguousarray(array[:, 1:]),
        lambda: array.astype(np.float16),
        lambda: cuda.asarray(np.float32(1)),
    ):
        with pytest.raises(KernelError):
            operation()
    assert (array[1:].get() == 1).all()  # contiguous rows


def test_pinned_memory_is_read_and_written_when_the_stream_runs(cuda: Cuda) -> None:
    array, pageable = cuda.asarray(ONES), np.zeros_like(ONES)
    pinned = np.frombuffer(cuda.alloc_pinned_memory(ONES.nbytes), np.float32, ONES.size)
    copy_to_host(cuda, pinned, array, 0)
    assert np.isnan(pinned).all()
    copy_to_host(cuda, pageable, array, 0)  # which waits
    assert (pinned == 1).all() and (pageable == 1).all()


def test_pools_reuse_freed_memory_before_work_on_it_has_run(cuda: Cuda) -> None:
    other_stream = stream(cuda, True)
    pinned = cuda.alloc_pinned_memory(512)
    array = cuda.empty((200,), np.float32)
    address, pinned_address = array.data.ptr, pinned.ptr
    del array, pinned
    with other_stream:
        assert cuda.empty((200,), np.float32).data.ptr != address  # each stream has its own blocks
    assert cuda.empty((200,), np.float32).data.ptr == address
    assert cuda.alloc_pinned_memory(512).ptr == pinned_address


def test_memory_of_an_upload_is_reused_only_after_its_copy(cuda: Cuda) -> None:
    first, second = cuda.asarray(ONES), cuda.asarray(2 * ONES)
    assert cuda.pinned.allocated == 2
    assert (first.get() == 1).all() and (second.get() == 2).all()
    cuda.asarray(ONES)
    assert cuda.pinned.allocated == 2


def test_a_full_pool_frees_its_blocks_and_then_refuses(cuda: Cuda) -> None:
    cuda.memory.capacity = cuda.pinned.capacity = 2048
    cuda.empty((1024,), np.uint8)
    array = cuda.empty((1536,), np.uint8)  # in place of the free block
    assert cuda.memory_info() == (512, 2048)
    with pytest.raises(OutOfMemoryError, match="out of memory"):
        cuda.empty((1024,), np.uint8)
    del array
    assert cuda.memory.free_bytes() == 1536
    cuda.empty((2048,), np.uint8)
    with pytest.raises(CUDARuntimeError, match="out of memory") as caught:
        cuda.alloc_pinned_memory(4096)
    assert caught.value.status == 2
    assert (cuda.asarray(np.ones(2048, np.uint8)).get() == 1).all()  # without pinned memory


def test_cupy_has_all_names_of_the_fake(cuda: Cuda) -> None:
    import cupy

    def compare(fake: Any, real: Any) -> None:
        for name, value in vars(fake).items():
            assert hasattr(real, name), name
            if isinstance(value, SimpleNamespace):
                compare(value, getattr(real, name))
            if isinstance(value, int):
                assert getattr(real, name) == value

    compare(cuda.cupy, cupy)
    signature = cupy.cuda.runtime.memcpy2DAsync.__doc__.partition("(")[2].partition(")")[0]
    names = [parameter.split()[-1] for parameter in signature.split(",")]
    assert names == ["dst", "dpitch", "src", "spitch", "width", "height", "kind", "stream"]
