"""CUDA on this machine: GPUs, CuPy's memory pools, and copies of arrays between devices."""

from __future__ import annotations

import ctypes
import os
from typing import Any

TENSORS_VARIABLE = "MAISI_GPU_TENSORS"  # the same as in server/settings.py


def gpus() -> list[str]:
    """Return the names of the NVIDIA GPUs; [] without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    names = []
    for number in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        driver.cuDeviceGet(ctypes.byref(device), number)
        driver.cuDeviceGetName(name, len(name), device)
        names.append(name.value.decode(errors="replace"))
    return names


def compute_capability(cupy: Any, device: int) -> str:
    """Return a device's compute capability, such as 8.9; raises ValueError without the device."""
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise ValueError(f"an NVIDIA GPU and its driver are needed: {error}") from None
    if device >= count:
        raise ValueError(f"there is no GPU {device}; this server has {count}")
    digits = cupy.cuda.Device(device).compute_capability
    return f"{digits[:-1]}.{digits[-1]}"


def expect_driver_library() -> None:
    """Raise ValueError unless `libcuda.so` loads.

    Triton's Python backend opens this name to exchange tensors on a GPU. Drivers install
    libcuda.so.1, but not always a link libcuda.so.
    """
    try:
        ctypes.CDLL("libcuda.so")
    except OSError as error:
        raise ValueError(
            f"Triton's Python backend needs libcuda.so for tensors on a GPU ({error}):"
            " link libcuda.so to the driver's libcuda.so.1"
        ) from None


def empty_pools(cupy: Any, device: Any) -> None:
    """Free the memory of the GPU and the host that CuPy's pools cache."""
    with device:
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()


def on_device(cupy: Any, name: str, array: Any, device: int, stream: Any) -> Any:
    """Return the input `name`, an array of numpy or CuPy, as an array on the current `device`.

    An array on another device is copied on the stream. All writes to the array must be complete.
    Raises ValueError for an array on a GPU that is not in C order.
    """
    if not isinstance(array, cupy.ndarray):
        array = cupy.asarray(array)
    if not array.flags.c_contiguous:  # CuPy would compile a kernel to copy it
        raise ValueError(f"{name}: strides {array.strides}, but C order is expected")
    if array.data.device_id == device:
        return array
    copy = cupy.empty(array.shape, array.dtype)
    copy.data.copy_from_device_async(array.data, array.nbytes, stream)
    return copy


def gpu_tensors() -> bool:
    """Return whether models may share memory of a GPU by CUDA's IPC."""
    return os.environ.get(TENSORS_VARIABLE) != "0"


def to_share(array: Any) -> Any:
    """Return a CuPy array for other models, or a numpy copy of it without IPC.

    All writes to the array must be complete.
    """
    if gpu_tensors():
        return array
    with array.device:
        return array.get()
