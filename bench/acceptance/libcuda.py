"""Call NVIDIA's driver by its C interface, without a toolkit or a Python package."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from bench import ROOT
from bench.acceptance.steps import NotDone

_NAMES = ("libcuda.so.1", "libcuda.so")
_COUNT = 1 << 20  # bytes that are shared by CUDA IPC
_LAZY = 1  # CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class CudaDevice:
    """A GPU: its name, its memory in bytes, and its compute capability, such as 9.0."""

    name: str
    memory: int
    capability: str


class _Handle(ctypes.Structure):
    """CUipcMemHandle."""

    _fields_ = [("reserved", ctypes.c_char * 64)]


@cache
def driver_library() -> Any:
    """Return the initialised driver library; raise NotDone if it does not load or finds no GPU."""
    for name in _NAMES:
        with suppress(OSError):
            driver = ctypes.CDLL(name)
            break
    else:
        raise NotDone(f"no NVIDIA GPU: the driver's {_NAMES[0]} is not installed")
    try:
        call(driver, "cuInit", 0)
    except RuntimeError as error:
        raise NotDone(f"no NVIDIA GPU: {error}") from None
    return driver


def call(driver: Any, name: str, *arguments: Any) -> None:
    """Call a function of the driver; raise RuntimeError with CUDA's name of an error."""
    status = getattr(driver, name)(*arguments)
    if status:
        text = ctypes.c_char_p()
        driver.cuGetErrorName(status, ctypes.byref(text))
        raise RuntimeError(f"{name}: {(text.value or b'').decode() or f'error {status}'}")


def devices() -> list[CudaDevice]:
    """Return the GPUs; raise NotDone if there is none."""
    driver, number = driver_library(), ctypes.c_int()
    call(driver, "cuDeviceGetCount", ctypes.byref(number))
    if not number.value:
        raise NotDone("no NVIDIA GPU: the driver lists none")
    return [_device(driver, index) for index in range(number.value)]


def _device(driver: Any, index: int) -> CudaDevice:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    call(driver, "cuDeviceGet", ctypes.byref(device), index)
    call(driver, "cuDeviceGetName", name, len(name), device)
    call(driver, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    digits = [ctypes.c_int(), ctypes.c_int()]
    for digit, attribute in zip(digits, _CAPABILITY, strict=True):
        call(driver, "cuDeviceGetAttribute", ctypes.byref(digit), attribute, device)
    capability = ".".join(str(digit.value) for digit in digits)
    return CudaDevice(name.value.decode(), memory.value, capability)


def first() -> CudaDevice | None:
    """Return the first GPU, or None if there is none."""
    try:
        return devices()[0]
    except NotDone:
        return None


def cuda() -> str:
    """Return the latest version of CUDA that the driver supports."""
    number = ctypes.c_int()
    call(driver_library(), "cuDriverGetVersion", ctypes.byref(number))
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def driver() -> str:
    """Return the driver's version from NVML, or "" without NVML."""
    with suppress(OSError):
        nvml, text = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.create_string_buffer(80)
        if nvml.nvmlInit_v2() == 0 and nvml.nvmlSystemGetDriverVersion(text, len(text)) == 0:
            return text.value.decode()
    return ""


def _current(driver: Any) -> None:
    """Make the first device's primary context current."""
    context, device = ctypes.c_void_p(), ctypes.c_int()
    call(driver, "cuDeviceGet", ctypes.byref(device), 0)
    call(driver, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call(driver, "cuCtxSetCurrent", context)


def share() -> None:
    """Check that another process can read memory of the GPU by CUDA IPC.

    Raises RuntimeError if the process cannot read the memory or reads wrong bytes.
    """
    driver, memory, handle = driver_library(), ctypes.c_uint64(), _Handle()
    _current(driver)
    content = bytes(range(256)) * (_COUNT // 256)
    call(driver, "cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(_COUNT))
    call(driver, "cuMemcpyHtoD_v2", memory, content, ctypes.c_size_t(_COUNT))
    call(driver, "cuIpcGetMemHandle", ctypes.byref(handle), memory)
    words = [sys.executable, "-m", "bench.acceptance.libcuda"]
    reader = subprocess.run(words, input=bytes(handle), capture_output=True, cwd=ROOT)
    call(driver, "cuMemFree_v2", memory)
    if reader.returncode:
        lines = reader.stderr.decode(errors="replace").splitlines() or ["no reason given"]
        raise RuntimeError(f"the other process failed: {lines[-1]}")
    if reader.stdout != content:
        raise RuntimeError("the other process read wrong bytes")


def _read_shared(handle: bytes) -> bytes:
    """Return the bytes that a handle of another process refers to."""
    driver, memory = driver_library(), ctypes.c_uint64()
    _current(driver)
    ipc_handle = _Handle.from_buffer_copy(handle)
    flags = ctypes.c_uint(_LAZY)
    call(driver, "cuIpcOpenMemHandle_v2", ctypes.byref(memory), ipc_handle, flags)
    content = ctypes.create_string_buffer(_COUNT)
    call(driver, "cuMemcpyDtoH_v2", content, memory, ctypes.c_size_t(_COUNT))
    call(driver, "cuIpcCloseMemHandle", memory)
    return content.raw


if __name__ == "__main__":
    sys.stdout.buffer.write(_read_shared(sys.stdin.buffer.read()))
