"""Run plans of TensorRT and TensorRT-RTX on an NVIDIA GPU.

`python -m export` writes a plan and its description `model.plan.json`. CuPy allocates the GPU's
memory, because its arrays support DLPack in both directions and its pool reuses memory between
runs. CUDA's own Python bindings have neither feature. CuPy's kernels are not used, so the CUDA
toolkit is not needed. The engine's scratch memory also comes from the pool, in the size for the
run's shapes; TensorRT itself would allocate it at load for the largest shapes of the profile.
Memory of earlier runs stays in the pool until `forget`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import Target, channels_last, cuda

# The Python module of each target, and the command that installs it.
MODULES = {
    "tensorrt-rtx": ("tensorrt_rtx", "pip install tensorrt-rtx-cu13==1.7.1.116"),
    "tensorrt": ("tensorrt", "pip install tensorrt --extra-index-url https://pypi.nvidia.com"),
}
CUPY = "cupy-cuda13x==13.6.0"

Shape = tuple[int, ...]


class Engine:
    """A plan on a device, with its execution context."""

    def __init__(
        self, folder: Path, filename: str, device: int, cache: Path | None, stream: Any = None
    ) -> None:
        """Load the plan; raises ValueError or RuntimeError if it does not load.

        `cache` is the folder for kernels that TensorRT-RTX compiles for this GPU; with None, they
        are not saved. `stream` is the CuPy stream of the plan; None for a new one.
        """
        self.cupy = cupy()
        self.device = self.cupy.cuda.Device(device)
        capability = cuda.compute_capability(self.cupy, device)
        path = select_plan(folder, filename, capability)
        self.description = describe(path, capability)
        self.name = self.description["target"]
        trt = python_module(*MODULES[self.name])
        plan = path.read_bytes()
        with self.device:
            self.log = logger(trt)
            self.stream = stream or self.cupy.cuda.Stream(non_blocking=True)
            self.runtime = trt.Runtime(self.log)
            self.plan = self.runtime.deserialize_cuda_engine(plan)
            if self.plan is None:
                raise ValueError(
                    f"{path.name}, built by {self.name} {self.description['version']}, does not"
                    f" load in {trt.__version__}: {self.log.last()}; export it again"
                )
            self.strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
            self.innermost = self.channels_innermost(trt)
            self.cache: Path | None = None
            if self.name == "tensorrt-rtx":
                self.kernels = trt.DynamicShapesKernelSpecializationStrategy.EAGER
                digest = hashlib.sha256(plan).hexdigest()
                if cache is not None:
                    self.cache = cache / f"{digest[:16]}-sm{capability.replace('.', '')}.cache"
            self.context: Any = self.new_context()
        self.compiled_shapes: set[tuple[tuple[str, Shape], ...]] = set()
        self.has_new_kernels = False

    def channels_innermost(self, trt: Any) -> set[str]:
        """Return the names of the inputs and outputs with C innermost in memory.

        Raises ValueError for another format than this one and the usual one.
        """
        names = set()
        for name in (*self.description["inputs"], *self.description["outputs"]):
            tensor_format = self.plan.get_tensor_format(name)
            if tensor_format == trt.TensorFormat.DHWC8:
                names.add(name)
            elif tensor_format != trt.TensorFormat.LINEAR:
                raise ValueError(f"{name}: format {tensor_format}; export the model again")
        return names

    def new_context(self) -> Any:
        """Return an execution context; raises RuntimeError if it cannot be created."""
        if self.name == "tensorrt-rtx":
            context = self.rtx_context()
        else:
            context = self.plan.create_execution_context(self.strategy)
        if context is None:
            raise RuntimeError(f"the plan cannot be run: {self.log.last()}")
        return context

    def rtx_context(self) -> Any:
        """Return a context of TensorRT-RTX with the kernels of the cache."""
        config = self.plan.create_runtime_config()
        config.set_execution_context_allocation_strategy(self.strategy)
        # By default, other kernels run until those for a shape are compiled, and the bytes differ.
        config.dynamic_shapes_kernel_specialization_strategy = self.kernels
        self.runtime_cache = config.create_runtime_cache()
        if self.cache is not None and self.cache.is_file():
            # TensorRT-RTX rejects a cache of another driver or GPU, and compiles kernels again.
            self.runtime_cache.deserialize(self.cache.read_bytes())
        config.set_runtime_cache(self.runtime_cache)
        return self.plan.create_execution_context(config)

    def run(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Run, wait, and return the outputs, which are CuPy arrays on the GPU.

        `arrays` are inputs by name, of numpy or CuPy; all writes to them must be complete. Raises
        the errors of `enqueue`, and RuntimeError if the run fails on the GPU.
        """
        outputs = self.enqueue(arrays)
        try:
            self.stream.synchronize()
        except Exception:
            self.context = None
            raise
        self.save_new_kernels()
        return outputs

    def enqueue(self, arrays: Mapping[str, Any], target: Target | None = None) -> dict[str, Any]:
        """Put a run on the stream; return the outputs, CuPy arrays that the run writes.

        Earlier work on the stream may still be writing `arrays`. Outputs are those arrays that
        `target` returns, and new ones where it returns None or an array that is not aligned.
        Raises ValueError for shapes that the engine was not built for, MemoryError if the GPU does
        not have enough memory, and RuntimeError if the engine fails; the next run then uses a new
        context.
        """
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        check(self.description["inputs"], shapes)
        # CuPy's pool reuses memory by stream, so memory that is freed here is reused after this
        # run.
        with self.device, self.stream:
            context = self.context or self.new_context()
            self.context = None  # set again below, so that a failed context is not reused
            inputs = {
                name: cuda.on_device(
                    self.cupy,
                    name,
                    channels_last.in_memory(array, name in self.innermost),
                    self.device.id,
                    self.stream,
                )
                for name, array in arrays.items()
            }
            for name, array in inputs.items():
                context.set_input_shape(name, shapes[name])
                if not context.set_tensor_address(name, array.data.ptr):
                    raise RuntimeError(f"{self.name}: {self.log.last()}")
            outputs = {}
            for name, tensor in self.description["outputs"].items():
                shape = tuple(context.get_tensor_shape(name))
                dtype, innermost = numpy_type(tensor["type"]), name in self.innermost
                output = None if target is None else target(name, shape, dtype, innermost)
                if output is None or output.data.ptr % _ALIGNMENT:
                    output = channels_last.empty(self.cupy.empty, shape, dtype, innermost)
                outputs[name] = output
                if not context.set_tensor_address(name, output.data.ptr):
                    raise RuntimeError(f"{self.name}: {self.log.last()}")
            size = context.update_device_memory_size_for_shapes()
            scratch = self.cupy.cuda.alloc(max(size, 1))
            context.set_device_memory(scratch.ptr, size)
            if not context.execute_async_v3(self.stream.ptr):
                raise RuntimeError(f"{self.name}: {self.log.last()}")
        self.context = context
        if (key := tuple(sorted(shapes.items()))) not in self.compiled_shapes:
            self.compiled_shapes.add(key)
            self.has_new_kernels = True
        return outputs

    def forget(self) -> None:
        """Free the memory of earlier runs in the pool."""
        cuda.empty_pools(self.cupy, self.device)

    def save_new_kernels(self) -> None:
        """Save the kernels if there was a new shape since they were saved."""
        if self.has_new_kernels:
            self.has_new_kernels = False
            self.save_kernels()

    def save_kernels(self) -> None:
        """Write the runtime cache for the next start, if its folder is writable."""
        if self.cache is not None:
            write(self.cache, bytes(self.runtime_cache.serialize()))


def cupy() -> Any:
    """Return CuPy; raises ValueError with the command that installs it."""
    return python_module("cupy", f"pip install {CUPY}")


def python_module(name: str, install: str) -> Any:
    """Return a Python module; raises ValueError with the command that installs it."""
    # In NVIDIA's image, which has the libraries of TensorRT, the bindings are sufficient.
    if name == "tensorrt" and not importlib.util.find_spec(name):
        name = "tensorrt_bindings"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"this server lacks {name} ({error}): {install}") from None


def select_plan(folder: Path, filename: str, capability: str) -> Path:
    """Return the plan for only this device, such as `model_sm89.plan`, or the plan `filename`.

    Raises ValueError if neither exists.
    """
    named = folder / filename
    own = named.with_stem(f"{named.stem}_sm{capability.replace('.', '')}")
    for path in (own, named):
        if path.is_file():
            return path
    plans = ", ".join(sorted(path.name for path in folder.glob(f"*{named.suffix}"))) or "none"
    raise ValueError(
        f"this GPU of compute capability {capability} needs {own.name} or {named.name}, but the"
        f" plans here are: {plans}"
    )


def describe(path: Path, capability: str) -> dict[str, Any]:
    """Return a plan's description; raises ValueError unless the plan is for `capability`."""
    description_path = path.with_name(f"{path.name}.json")
    try:
        description: dict[str, Any] = json.loads(description_path.read_bytes())
        target, capabilities = description["target"], description["compute_capabilities"]
        for tensor in (*description["inputs"].values(), *description["outputs"].values()):
            numpy_type(tensor["type"]), tensor["min"], tensor["max"]
    except OSError as error:
        raise ValueError(
            f"{description_path.name}, the description of {path.name}: {error.strerror}"
        ) from None
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{description_path.name} is damaged; export the model again") from None
    if target not in MODULES:
        raise ValueError(f"{path.name} is for {target}, not for {' or '.join(MODULES)}")
    if capability not in capabilities:
        raise ValueError(
            f"{path.name} was built for compute capability {', '.join(capabilities)}, but this GPU"
            f" has {capability}: export with --compute-capability {capability}"
        )
    return description


def check(inputs: Mapping[str, Any], shapes: Mapping[str, Shape]) -> None:
    """Raise ValueError unless all inputs are present in shapes that the engine was built for."""
    if missing := sorted(set(inputs) - set(shapes)):
        raise ValueError(f"{', '.join(missing)}: missing; the engine needs all its inputs")
    for name, shape in shapes.items():
        if name not in inputs:
            raise ValueError(f"{name}: not one of the engine's inputs, {', '.join(inputs)}")
        low, high = inputs[name]["min"], inputs[name]["max"]
        if len(shape) != len(low) or not all(
            a <= side <= b for a, side, b in zip(low, shape, high, strict=True)
        ):
            raise ValueError(f"{name}: {list(shape)} is not within {low} to {high}")


# Bytes of which an output's address has to be a multiple (NvInferRuntime.h, setTensorAddress).
_ALIGNMENT = 256

_TYPES: dict[str, type[Any]] = {
    "FP32": np.float32,
    "FP16": np.float16,
    "INT64": np.int64,
    "INT32": np.int32,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}


def numpy_type(kind: str) -> type[Any]:
    """Return numpy's type for Triton's name, such as FP16; raises KeyError for an unknown name."""
    return _TYPES[kind]


def cache_folder(parameters: Mapping[str, str]) -> Path | None:
    """Return the folder for compiled kernels; None if they are not saved."""
    folder = parameters.get("runtime_cache")
    if folder is not None:
        return Path(folder) if folder else None
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "maisi-triton")


def write(path: Path, data: bytes) -> None:
    """Write a file atomically; do nothing if the folder is not writable or the disk is full."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent)
    except OSError:
        return
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except OSError:
        os.unlink(name)


def logger(trt: Any) -> Any:
    """Return a TensorRT logger that records errors."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.errors.append(message)

        def last(self) -> str:
            """Return the first error since the last call."""
            first = self.errors[0] if self.errors else "no reason given"
            self.errors.clear()
            return first

    return Log()
