"""CuPy and TensorRT over the fake of CUDA; plans are ONNX files, run when their stream runs.

A context that failed once always fails, as one of TensorRT may.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from backends.engines import channels_last, tensorrt
from tests.backends.engines.fake_cuda import CUDARuntimeError, OutOfMemoryError
from tests.backends.engines.fake_cupy import Cuda

SCRATCH = 4096  # bytes that any plan needs
_TYPES = {"float": "FP32", "float16": "FP16", "int64": "INT64", "uint8": "UINT8"}


@functools.cache
def session(plan: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(plan, options, ["CPUExecutionProvider"])


def triton_type(tensor: Any) -> str:
    return _TYPES[tensor.type.removeprefix("tensor(").removesuffix(")")]


def write_plan(
    file: Path,
    path: Path,
    most: int = 10**6,
    target: str = "tensorrt",
    innermost: Sequence[str] = (),
) -> None:
    """Write a plan and its description for an ONNX file; sides are 1 to `most`, or fixed.

    `innermost`: names of inputs and outputs in the format DHWC8.
    """
    model = onnx.load(file)
    onnx.helper.set_model_props(model, dict.fromkeys(innermost, "DHWC8"))
    path.write_bytes(model.SerializeToString())
    graph = session(path.read_bytes())

    def tensors(ports: Any) -> dict[str, Any]:
        return {
            tensor.name: {
                "type": triton_type(tensor),
                "min": [side if isinstance(side, int) else 1 for side in tensor.shape],
                "max": [side if isinstance(side, int) else most for side in tensor.shape],
            }
            for tensor in ports
        }

    description = {
        "target": target,
        "version": "10.0",
        "compute_capabilities": ["8.6"],
        "inputs": tensors(graph.get_inputs()),
        "outputs": tensors(graph.get_outputs()),
    }
    path.with_name(f"{path.name}.json").write_text(json.dumps(description))


class Gpu(Cuda):
    """The modules `cupy` and `tensorrt`; `fail` is the failure of the next run.

    `fail`: "execute" when TensorRT refuses the run, "allocate" without memory, "shape" when a
    context refuses the shapes, "kernel" when the run fails on the GPU; "": none.
    """

    def __init__(self, capacity: int = 1 << 30, pinned: int = 1 << 30) -> None:
        super().__init__(capacity, pinned)
        self.fail = ""
        self.contexts = 0
        self.tensorrt = SimpleNamespace(
            __version__="10.0",
            ILogger=type("ILogger", (), {"ERROR": 1}),
            Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=self.deserialize),
            ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED=0),
            TensorFormat=SimpleNamespace(LINEAR="LINEAR", DHWC8="DHWC8"),
            DynamicShapesKernelSpecializationStrategy=SimpleNamespace(LAZY=0, EAGER=1),
        )

    def install(self, monkeypatch: pytest.MonkeyPatch) -> Gpu:
        modules = {"cupy": self.cupy, "tensorrt": self.tensorrt, "tensorrt_rtx": self.tensorrt}
        monkeypatch.setattr(tensorrt, "python_module", lambda name, install: modules[name])
        return self

    def due(self, failure: str) -> bool:
        failing = self.fail == failure
        self.fail = "" if failing else self.fail
        return failing

    def empty(self, shape: Any, dtype: Any) -> Any:
        if self.due("allocate"):
            raise OutOfMemoryError("out of memory: cudaErrorMemoryAllocation")
        return super().empty(shape, dtype)

    def deserialize(self, plan: bytes) -> Any:
        formats = session(plan).get_modelmeta().custom_metadata_map
        return SimpleNamespace(
            get_tensor_format=lambda name: formats.get(name, "LINEAR"),
            create_runtime_config=RuntimeConfig,
            create_execution_context=lambda config: Context(self, plan, config),
        )


class RuntimeConfig:
    """The configuration of a context of TensorRT-RTX; by default kernels are compiled lazily."""

    dynamic_shapes_kernel_specialization_strategy = 0

    def set_execution_context_allocation_strategy(self, strategy: int) -> None:
        assert strategy == 0

    def create_runtime_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: b"kernels", deserialize=lambda data: True)

    def set_runtime_cache(self, cache: Any) -> None:
        """Do nothing: there are no kernels."""


class Context:
    def __init__(self, gpu: Gpu, plan: bytes, config: Any) -> None:
        gpu.contexts += 1
        self.lazy = getattr(config, "dynamic_shapes_kernel_specialization_strategy", 1) == 0
        self.gpu, self.session, self.broken = gpu, session(plan), False
        self.formats = self.session.get_modelmeta().custom_metadata_map
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.outputs: dict[Any, dict[str, Any]] = {}  # shapes of inputs -> those of outputs

    def set_input_shape(self, name: str, shape: Any) -> None:
        if self.gpu.due("shape"):
            self.broken = True
            raise RuntimeError("a shape that is not allowed")
        self.shapes[name] = tuple(shape)

    def set_tensor_address(self, name: str, begin: int) -> bool:
        if begin % 256 and name in {output.name for output in self.session.get_outputs()}:
            return False
        self.addresses[name] = begin
        return True

    def get_tensor_shape(self, name: str) -> Any:
        key = tuple(self.shapes.items())
        if key not in self.outputs:
            zeros = {
                tensor.name: np.zeros(self.shapes[tensor.name], numpy_type(tensor))
                for tensor in self.session.get_inputs()
            }
            names = [output.name for output in self.session.get_outputs()]
            outputs = self.session.run(names, zeros)
            shapes = {name: array.shape for name, array in zip(names, outputs, strict=True)}
            self.outputs[key] = shapes
        return self.outputs[key][name]

    def update_device_memory_size_for_shapes(self) -> int:
        return SCRATCH

    def set_device_memory(self, begin: int, size: int) -> None:
        self.scratch = self.gpu.on_device(begin, size)

    def tensor(self, tensor: Any, shape: tuple[int, ...]) -> np.ndarray:
        kind = np.dtype(numpy_type(tensor))
        memory = self.gpu.on_device(self.addresses[tensor.name], math.prod(shape) * kind.itemsize)
        innermost = tensor.name in self.formats
        if innermost:
            assert shape[1] % 8 == 0  # TensorRT would pad the channels
        return channels_last.empty(
            lambda axes, kind: memory.view(kind).reshape(axes), shape, kind, innermost
        )

    def execute_async_v3(self, stream: int) -> bool:
        self.broken = self.broken or self.gpu.due("execute")
        if self.broken:
            return False
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        feeds = {tensor.name: self.tensor(tensor, self.shapes[tensor.name]) for tensor in inputs}
        outputs_by_name = {x.name: self.tensor(x, self.get_tensor_shape(x.name)) for x in outputs}
        scratch, fails, lazy = self.scratch, self.gpu.due("kernel"), self.lazy
        self.lazy = False

        def work() -> None:
            if fails:
                self.broken = True
                raise CUDARuntimeError("cudaErrorLaunchFailure: unspecified launch failure", 719)
            scratch[:] = 0xFF  # another user of this memory loses its values
            for name, array in zip(
                outputs_by_name, self.session.run(list(outputs_by_name), feeds), strict=True
            ):
                # The first kernels, for any shape, round differently from those for one shape.
                np.copyto(outputs_by_name[name], np.nextafter(array, 9) if lazy else array)

        self.gpu.streams[stream].add(work)
        return True


def numpy_type(tensor: Any) -> Any:
    return tensorrt.numpy_type(triton_type(tensor))
