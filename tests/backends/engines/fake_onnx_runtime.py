"""ONNX Runtime's CUDA provider over the fake of CUDA; the graph itself runs on the CPU.

A session accepts bound addresses of the device alone, has an arena of the device's memory, and puts
its runs on the stream in its provider's settings, or on a new one.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from backends.engines import onnx_runtime
from tests.backends.engines import fake_gpu
from tests.backends.engines.fake_cuda import Block, CUDARuntimeError, Stream
from tests.backends.engines.fake_cupy import Array


class Gpu(fake_gpu.Gpu):
    """The modules `cupy`, `tensorrt` and `onnxruntime`; `fail` as for plans.

    `arenas`: bytes that sessions keep between runs.
    """

    def __init__(self, capacity: int = 1 << 30, pinned: int = 1 << 30) -> None:
        super().__init__(capacity, pinned)
        self.sessions: list[Session] = []
        self.cupy.from_dlpack = lambda value: value.array
        self.onnxruntime = SimpleNamespace(
            __version__=onnxruntime.__version__,
            SessionOptions=onnxruntime.SessionOptions,
            RunOptions=lambda: RunOptions(),
            InferenceSession=lambda path, options, providers, **_: Session(self, path, providers),
        )

    def install(self, monkeypatch: pytest.MonkeyPatch) -> Gpu:
        super().install(monkeypatch)
        monkeypatch.setattr(onnx_runtime, "ort", self.onnxruntime)
        monkeypatch.setattr(onnx_runtime, "expect_provider", lambda: None)
        return self

    @property
    def arenas(self) -> int:
        return sum(block.size for session in self.sessions for block in session.arena)


class RunOptions:
    def __init__(self) -> None:
        self.terminate = False
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


class Session:
    def __init__(self, gpu: Gpu, path: Path, providers: Any) -> None:
        ((name, settings),) = providers
        assert name == "CUDAExecutionProvider" and settings["use_tf32"] == "0"
        self.gpu, self.cpu = gpu, fake_gpu.session(Path(path).read_bytes())
        self.limit = int(settings["gpu_mem_limit"])
        pointer = settings.get("user_compute_stream")
        self.stream = Stream(gpu, True) if pointer is None else gpu.streams[int(pointer)]
        self.arena: list[Block] = []  # free blocks, reused by this session alone
        gpu.sessions.append(self)

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_inputs(self) -> Any:
        return self.cpu.get_inputs()

    def get_outputs(self) -> Any:
        return self.cpu.get_outputs()

    def io_binding(self) -> Binding:
        return Binding(self.gpu)

    def take(self, size: int) -> Block:
        fits = [block for block in self.arena if block.segment.nbytes >= size]
        if fits:
            self.arena.remove(fits[0])
            return fits[0]
        if self.gpu.due("allocate") or size > self.limit:
            raise RuntimeError("Failed to allocate memory for requested buffer of size")
        return Block(self.gpu.memory, size, -1)  # cudaMalloc's, of no stream

    def value(self, like: np.ndarray) -> Any:
        """Return an output in memory of the arena."""
        lease = Lease(self, self.take(like.nbytes))
        view = lease.memory.segment[: like.nbytes].view(like.dtype).reshape(like.shape)
        return SimpleNamespace(array=Array(self.gpu, lease, view))

    def run_with_iobinding(self, binding: Binding, options: RunOptions) -> None:
        try:
            if options.terminate:
                raise RuntimeError("Exiting due to terminate flag being set to true.")
            self.enqueue(binding)
        finally:
            if "memory.enable_memory_arena_shrinkage" in options.entries:
                self.arena.clear()
                self.gpu.memory.free_all_blocks()
        if options.entries.get("disable_synchronize_execution_providers") != "1":
            self.stream.synchronize()

    def enqueue(self, binding: Binding) -> None:
        if self.gpu.due("execute"):
            raise RuntimeError("Non-zero status code returned while running a node")
        for tensor in self.get_inputs():
            kind = np.dtype(fake_gpu.numpy_type(tensor))
            if binding.inputs[tensor.name].dtype != kind:
                raise RuntimeError(f"Unexpected input data type for {tensor.name}")
        # Shapes are known before the run; they do not depend on the values.
        zeros = {name: np.zeros(x.shape, x.dtype) for name, x in binding.inputs.items()}
        values = [self.value(array) for array in self.cpu.run(binding.outputs, zeros)]
        scratch, fails = self.take(fake_gpu.SCRATCH), self.gpu.due("kernel")

        def work() -> None:
            if fails:
                raise CUDARuntimeError("cudaErrorLaunchFailure: unspecified launch failure", 719)
            scratch.segment[:] = 0xFF  # another user of this memory loses its values
            results = self.cpu.run(binding.outputs, binding.inputs)
            for value, result in zip(values, results, strict=True):
                np.copyto(value.array.view, result)

        self.stream.add(work)
        self.arena.append(scratch)
        binding.values = values


class Lease:
    """A block of an arena, returned with its last reference."""

    def __init__(self, session: Session, block: Block) -> None:
        self.session, self.memory, self.ptr, self.pool = session, block, block.ptr, block.pool

    def __del__(self) -> None:
        self.session.arena.append(self.memory)


class Binding:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.inputs: dict[str, np.ndarray] = {}
        self.outputs: list[str] = []
        self.values: list[Any] = []

    def bind_input(
        self, name: str, kind: str, number: int, dtype: Any, shape: Any, address: int
    ) -> None:
        assert (kind, number) == ("cuda", 0)
        if self.gpu.due("shape"):
            raise RuntimeError("Got invalid dimensions for input")
        size = math.prod(shape) * np.dtype(dtype).itemsize
        self.inputs[name] = self.gpu.on_device(address, size).view(dtype).reshape(shape)

    def bind_output(self, name: str, kind: str, number: int) -> None:
        assert (kind, number) == ("cuda", 0)
        self.outputs.append(name)

    def get_outputs(self) -> list[Any]:
        return self.values
