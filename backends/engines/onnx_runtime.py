"""Run ONNX files by ONNX Runtime with IOBinding, on an NVIDIA GPU or on the CPU.

Inputs are bound by their addresses, and outputs stay on the device, so nothing is copied. On a GPU,
runs use the caller's stream, and the caller waits for the stream. Memory within a run is allocated
by ONNX Runtime's arena.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from . import cuda, openvino, tensorrt
from .memory import SPARE, expect

# Replaces the package for CPUs, which has the same files; for Python 3.11 or newer.
INSTALL = (
    "pip uninstall -y onnxruntime onnxruntime-gpu && pip install"
    " onnxruntime-gpu[cuda,cudnn]==1.31.1"
)
_SHARE = 0.85  # largest part of a GPU's memory for an arena
_SHRINK = "memory.enable_memory_arena_shrinkage"


@dataclass(frozen=True)
class Device:
    """The device of an engine.

    `kind`, cuda or cpu, and `number` are those of ONNX Runtime. `arrays` is the module of its
    arrays, cupy or numpy. `stream` is CuPy's stream, or None on the CPU. `provider` is ONNX
    Runtime's execution provider, with its `settings`. `options` are the options of sessions.
    """

    kind: str
    number: int
    arrays: Any
    stream: Any
    provider: str
    settings: Mapping[str, str]
    options: ort.SessionOptions

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the device and its stream the current ones of CuPy."""
        if self.stream is None:
            yield
            return
        with self.arrays.cuda.Device(self.number), self.stream:
            yield


def cpu(threads: int = 0) -> Device:
    """Return the CPU with `threads` threads; 0 means every core that this process may use."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or openvino.cores()
    # Volumes differ in size between requests: memory kept for one size is unusable for the next.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    return Device("cpu", 0, np, None, "CPUExecutionProvider", {}, options)


def gpu(number: int, stream: Any = None) -> Device:
    """Return a GPU by its number; `stream` is CuPy's stream, or None for a new one.

    Raises ValueError if there is no such GPU, or a required library is not installed.
    """
    cupy = tensorrt.cupy()
    cuda.compute_capability(cupy, number)
    expect_provider()
    with cupy.cuda.Device(number):
        if stream is None:
            stream = cupy.cuda.Stream(non_blocking=True)
        limit = int(_SHARE * cupy.cuda.runtime.memGetInfo()[1])
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    # Keep weights outside of the arena, so that it can shrink to nothing.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    settings = {
        "device_id": str(number),
        "user_compute_stream": str(stream.ptr),
        "use_tf32": "0",  # 10 bits of mantissa are less exact than 1e-4
        "cudnn_conv_algo_search": "HEURISTIC",  # EXHAUSTIVE measures all for each new size
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": str(limit),
    }
    return Device("cuda", number, cupy, stream, "CUDAExecutionProvider", settings, options)


def expect_provider() -> None:
    """Raise ValueError unless ONNX Runtime's CUDA provider loads with its libraries.

    Without this check, a session would run on the CPU and only log a line.
    """
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise ValueError(f"onnxruntime {ort.__version__} is built for the CPU: {INSTALL}")
    ort.preload_dlls()
    folder = Path(ort.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        reason = str(error).partition(":")[0]
        raise ValueError(f"ONNX Runtime's CUDA provider lacks {reason}: {INSTALL}") from None


class Engine:
    """An ONNX file on a device, in the precision of its weights."""

    def __init__(self, path: Path, device: Device) -> None:
        """Load the file; raises RuntimeError or an error of ONNX Runtime if it does not load."""
        self.device = device
        with device.current():
            provider = (device.provider, dict(device.settings))
            self.session = ort.InferenceSession(
                path, device.options, providers=[provider], enable_fallback=0
            )
        if device.provider not in self.session.get_providers():
            raise RuntimeError(f"ONNX Runtime has no {device.provider}; its log says why")
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.options = ort.RunOptions()
        # An arena shrinks at the end of a run. This run ends at once, with an error.
        self.shrink_options = ort.RunOptions()
        self.shrink_options.terminate = True
        self.shrink_options.add_run_config_entry(_SHRINK, f"gpu:{device.number}")
        # The stream orders later work, and the caller waits for the stream once.
        self.options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def run(self, arrays: Mapping[str, Any], names: Sequence[str] = ()) -> dict[str, Any]:
        """Run, wait for it, and return the outputs as `enqueue` does."""
        outputs = self.enqueue(arrays, names)
        if self.device.stream is not None:
            self.device.stream.synchronize()
        return outputs

    def enqueue(self, arrays: Mapping[str, Any], names: Sequence[str] = ()) -> dict[str, Any]:
        """Put a run on the stream; return the outputs `names`, by default all, on the device.

        `arrays` are inputs by name, of numpy or, on a GPU, of CuPy; earlier work on the stream may
        still be writing them. Raises ValueError for an array on a GPU that is not in C order, an
        error of ONNX Runtime for inputs that do not fit, and errors that `out_of_memory`
        recognises.
        """
        if self.device.kind == "cpu":
            expect(SPARE)  # a thread that cannot allocate memory ends the process
        with self.device.current():
            inputs = {name: self._bring(name, array) for name, array in arrays.items()}
            return self._run(inputs, names or self.outputs, self.options)

    def shrink(self, arrays: Mapping[str, Any]) -> None:
        """Free the memory of earlier runs in a GPU's arena; `arrays` are the inputs of any run.

        This waits for the stream, and raises RuntimeError if work on it failed.
        """
        if self.device.stream is None:  # the CPU's arena is off
            return
        self.device.stream.synchronize()
        with suppress(Exception), self.device.current():
            inputs = {name: self._bring(name, array) for name, array in arrays.items()}
            self._run(inputs, self.outputs, self.shrink_options)

    def _run(
        self, inputs: Mapping[str, Any], names: Sequence[str], options: ort.RunOptions
    ) -> dict[str, Any]:
        kind, number = self.device.kind, self.device.number
        binding = self.session.io_binding()
        for name, array in inputs.items():
            address = array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
            binding.bind_input(name, kind, number, array.dtype, array.shape, address)
        for name in names:
            binding.bind_output(name, kind, number)
        self.session.run_with_iobinding(binding, options)
        values = zip(names, binding.get_outputs(), strict=True)
        return {name: self.device.arrays.from_dlpack(value) for name, value in values}

    def _bring(self, name: str, array: Any) -> Any:
        """Return an array that can be bound: on the device, in C order."""
        if self.device.kind == "cpu":
            return np.ascontiguousarray(array)
        device = self.device
        return cuda.on_device(device.arrays, name, array, device.number, device.stream)
