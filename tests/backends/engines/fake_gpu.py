"""TensorRT and CuPy as `backends/engines/tensorrt.py` uses them, on the CPU: plans are ONNX files.

A context that failed once fails for ever, as one of TensorRT may; so does a run that writes to a
tensor of another shape than the context was told.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime


class Array(np.ndarray):
    """An array of CuPy, whose memory has an address."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        _memory[self.ctypes.data] = self
        return SimpleNamespace(ptr=self.ctypes.data)


_memory: dict[int, Array] = {}


class Gpu:
    """The modules `cupy` and `tensorrt`; `fail` makes the next run end with what it names.

    `fail`: "execute" for a run that TensorRT refuses, "allocate" for memory that is not to be had,
    "shape" for shapes that a context cannot take; "" for none.
    """

    def __init__(self) -> None:
        self.fail = ""
        self.contexts = 0

    def due(self, what: str) -> bool:
        failing = self.fail == what
        self.fail = "" if failing else self.fail
        return failing

    @property
    def cupy(self) -> Any:
        def empty(shape: tuple[int, ...], kind: Any) -> Array:
            if self.due("allocate"):
                raise MemoryError("out of memory: cudaErrorMemoryAllocation")
            return np.zeros(shape, kind).view(Array)

        pool = SimpleNamespace(free_all_blocks=lambda: None)
        device = SimpleNamespace(compute_capability="86")
        whole = type("Device", (contextlib.nullcontext,), vars(device))
        stream = type("Stream", (contextlib.nullcontext,), {"ptr": 1, "synchronize": lambda _: 0})
        return SimpleNamespace(
            ascontiguousarray=lambda array: np.ascontiguousarray(array).view(Array),
            empty=empty,
            get_default_memory_pool=lambda: pool,
            get_default_pinned_memory_pool=lambda: pool,
            cuda=SimpleNamespace(
                Device=lambda number: whole(),
                Stream=lambda non_blocking: stream(),
                alloc=lambda size: SimpleNamespace(ptr=2),
                runtime=SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=OSError),
            ),
        )

    @property
    def tensorrt(self) -> Any:
        class Logger:
            ERROR = 1

            def __init__(self) -> None:
                """Nothing to keep."""

        gpu = self

        class Context:
            def __init__(self, session: onnxruntime.InferenceSession) -> None:
                gpu.contexts += 1
                self.session, self.broken = session, False
                self.shapes: dict[str, Any] = {}
                self.at: dict[str, int] = {}

            def set_input_shape(self, name: str, shape: Any) -> None:
                if gpu.due("shape"):
                    self.broken = True
                    raise RuntimeError("a shape that is not allowed")
                self.shapes[name] = shape

            def set_tensor_address(self, name: str, address: int) -> None:
                self.at[name] = address

            def get_tensor_shape(self, name: str) -> Any:
                return self.shapes["latent"]

            def update_device_memory_size_for_shapes(self) -> int:
                return 1

            def set_device_memory(self, address: int, size: int) -> None:
                """Scratch memory, which ONNX Runtime has itself."""

            def execute_async_v3(self, stream: int) -> bool:
                self.broken = self.broken or gpu.due("execute")
                if self.broken:
                    return False
                feeds = {name: np.asarray(_memory[self.at[name]]) for name in self.shapes}
                names = [output.name for output in self.session.get_outputs()]
                for name, array in zip(names, self.session.run(names, feeds), strict=True):
                    _memory[self.at[name]][...] = array
                return True

        def deserialize(plan: bytes) -> Any:
            session = onnxruntime.InferenceSession(plan)
            return SimpleNamespace(create_execution_context=lambda strategy: Context(session))

        return SimpleNamespace(
            __version__="10.0",
            ILogger=Logger,
            Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=deserialize),
            ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED=0),
        )
