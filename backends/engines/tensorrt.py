"""Plans of TensorRT and TensorRT-RTX on an NVIDIA GPU.

Beside a plan lies its description, `model.plan.json`, both written by `python -m export`. Memory of
the GPU is CuPy's: its arrays speak DLPack in both directions, and its pool hands what one run freed
to the next. CUDA's own Python bindings offer neither. None of CuPy's kernels are used, so the CUDA
toolkit is not needed. The pool also has the engine's scratch memory, as much as the run's shapes
need: TensorRT by itself would hold what the largest shapes of the profile need from the start. What
runs have taken stays in the pool for the next ones, until `forget`.
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

from . import cuda

# What each target's library is called and how it is installed.
MODULES = {
    "tensorrt-rtx": ("tensorrt_rtx", "pip install tensorrt-rtx-cu13==1.7.1.116"),
    "tensorrt": ("tensorrt", "pip install tensorrt --extra-index-url https://pypi.nvidia.com"),
}
CUPY = "cupy-cuda13x==13.6.0"

Shape = tuple[int, ...]


class Engine:
    """A plan on a device, with the context it runs in."""

    def __init__(
        self, folder: Path, filename: str, device: int, cache: Path | None, stream: Any = None
    ) -> None:
        """Load the plan; raise ValueError or RuntimeError where that cannot be.

        `cache`: the folder for kernels that TensorRT-RTX compiles for this GPU; None: none is kept.
        `stream`: the stream of CuPy that the plan runs on; None: one of its own.
        """
        self.cupy = cupy()
        self.device = self.cupy.cuda.Device(device)
        capability = cuda.compute_capability(self.cupy, device)
        path = choose(folder, filename, capability)
        self.told = describe(path, capability)
        self.name = self.told["target"]
        trt = library(*MODULES[self.name])
        plan = path.read_bytes()
        with self.device:
            self.log = logger(trt)
            self.stream = stream or self.cupy.cuda.Stream(non_blocking=True)
            self.runtime = trt.Runtime(self.log)
            self.plan = self.runtime.deserialize_cuda_engine(plan)
            if self.plan is None:
                raise ValueError(
                    f"{path.name}, built by {self.name} {self.told['version']}, does not load in"
                    f" {trt.__version__}: {self.log.last()}; export it again"
                )
            self.strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
            self.cache: Path | None = None
            if self.name == "tensorrt-rtx":
                self.kernels = trt.DynamicShapesKernelSpecializationStrategy.EAGER
                digest = hashlib.sha256(plan).hexdigest()
                if cache is not None:
                    self.cache = cache / f"{digest[:16]}-sm{capability.replace('.', '')}.cache"
            self.context: Any = self.new_context()
        self.seen: set[tuple[tuple[str, Shape], ...]] = set()
        self.has_new_kernels = False

    def new_context(self) -> Any:
        """Return a context to run the plan in; raise RuntimeError where there is none."""
        if self.name == "tensorrt-rtx":
            context = self.kept_context()
        else:
            context = self.plan.create_execution_context(self.strategy)
        if context is None:
            raise RuntimeError(f"the plan cannot be run: {self.log.last()}")
        return context

    def kept_context(self) -> Any:
        """Return a context of TensorRT-RTX with the kernels that were compiled before."""
        config = self.plan.create_runtime_config()
        config.set_execution_context_allocation_strategy(self.strategy)
        # Else others run until the kernels for a shape are compiled, and bytes differ between runs.
        config.dynamic_shapes_kernel_specialization_strategy = self.kernels
        self.kept = config.create_runtime_cache()
        if self.cache is not None and self.cache.is_file():
            # Of another driver or GPU it is refused, and kernels are compiled anew.
            self.kept.deserialize(self.cache.read_bytes())
        config.set_runtime_cache(self.kept)
        return self.plan.create_execution_context(config)

    def run(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs, CuPy arrays on the GPU whose values are there.

        `arrays` are of numpy or CuPy; nothing may still be writing them. Raises what `enqueue`
        does, and RuntimeError when the engine fails while it runs.
        """
        outputs = self.enqueue(arrays)
        try:
            self.stream.synchronize()
        except Exception:
            self.context = None
            raise
        self.keep_new()
        return outputs

    def enqueue(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Put a run on the stream; return the outputs, CuPy arrays written when it has run.

        What was put on the stream before may still be writing `arrays`. Raises ValueError for
        shapes that the engine was not built for, MemoryError when the GPU has not enough memory,
        and RuntimeError when the engine fails; the next run has a new context.
        """
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        check(self.told["inputs"], shapes)
        # Memory, too, is this stream's: what is freed here is used again only after this run.
        with self.device, self.stream:
            context = self.context or self.new_context()
            self.context = None  # one that failed is not used again
            given = {
                name: cuda.on_device(self.cupy, name, array, self.device.id, self.stream)
                for name, array in arrays.items()
            }
            for name, array in given.items():
                context.set_input_shape(name, shapes[name])
                context.set_tensor_address(name, array.data.ptr)
            outputs = {}
            for name, told in self.told["outputs"].items():
                shape = tuple(context.get_tensor_shape(name))
                outputs[name] = self.cupy.empty(shape, numpy_type(told["type"]))
                context.set_tensor_address(name, outputs[name].data.ptr)
            size = context.update_device_memory_size_for_shapes()
            scratch = self.cupy.cuda.alloc(max(size, 1))
            context.set_device_memory(scratch.ptr, size)
            if not context.execute_async_v3(self.stream.ptr):
                raise RuntimeError(f"{self.name}: {self.log.last()}")
        self.context = context
        if (met := tuple(sorted(shapes.items()))) not in self.seen:
            self.seen.add(met)
            self.has_new_kernels = True
        return outputs

    def forget(self) -> None:
        """Give back what runs have left in the pool."""
        cuda.empty_pools(self.cupy, self.device)

    def keep_new(self) -> None:
        """Write the runtime cache when a shape was new since the last time."""
        if self.has_new_kernels:
            self.has_new_kernels = False
            self.keep()

    def keep(self) -> None:
        """Write the runtime cache for the next start; where that cannot be, nothing is kept."""
        if self.cache is not None:
            write(self.cache, bytes(self.kept.serialize()))


def cupy() -> Any:
    """Return CuPy; raise ValueError with what to install."""
    return library("cupy", f"pip install {CUPY}")


def library(name: str, install: str) -> Any:
    """Return a Python module; raise ValueError with what to install."""
    # NVIDIA's image has TensorRT's libraries; then the bindings alone are enough.
    if name == "tensorrt" and not importlib.util.find_spec(name):
        name = "tensorrt_bindings"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"this server lacks {name} ({error}): {install}") from None


def choose(folder: Path, filename: str, capability: str) -> Path:
    """Return the plan for the device alone, `model_sm89.plan`, or the one named `filename`.

    Raises ValueError when there is neither.
    """
    named = folder / filename
    own = named.with_stem(f"{named.stem}_sm{capability.replace('.', '')}")
    for path in (own, named):
        if path.is_file():
            return path
    here = ", ".join(sorted(path.name for path in folder.glob(f"*{named.suffix}"))) or "none"
    raise ValueError(
        f"this GPU of compute capability {capability} needs {own.name} or {named.name}, and the"
        f" plans here are: {here}"
    )


def describe(path: Path, capability: str) -> dict[str, Any]:
    """Read a plan's description; raise ValueError unless the plan is for `capability`."""
    beside = path.with_name(f"{path.name}.json")
    try:
        told: dict[str, Any] = json.loads(beside.read_bytes())
        target, built = told["target"], told["compute_capabilities"]
        for tensor in (*told["inputs"].values(), *told["outputs"].values()):
            numpy_type(tensor["type"]), tensor["min"], tensor["max"]
    except OSError as error:
        raise ValueError(f"{beside.name}, which tells of {path.name}: {error.strerror}") from None
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{beside.name} is damaged; export the model again") from None
    if target not in MODULES:
        raise ValueError(f"{path.name} is for {target}, not for {' or '.join(MODULES)}")
    if capability not in built:
        raise ValueError(
            f"{path.name} was built for compute capability {', '.join(built)}, and this GPU has"
            f" {capability}: export with --compute-capability {capability}"
        )
    return told


def check(inputs: Mapping[str, Any], shapes: Mapping[str, Shape]) -> None:
    """Raise ValueError unless each input is there, in a shape that the engine was built for."""
    if missing := sorted(set(inputs) - set(shapes)):
        raise ValueError(f"{', '.join(missing)}: missing; the engine needs all its inputs")
    for name, shape in shapes.items():
        if name not in inputs:
            raise ValueError(f"{name}: not one of the engine's inputs, {', '.join(inputs)}")
        low, high = inputs[name]["min"], inputs[name]["max"]
        if len(shape) != len(low) or not all(
            a <= size <= b for a, size, b in zip(low, shape, high, strict=True)
        ):
            raise ValueError(f"{name}: {list(shape)} is not within {low} to {high}")


_TYPES: dict[str, type[Any]] = {
    "FP32": np.float32,
    "FP16": np.float16,
    "INT64": np.int64,
    "INT32": np.int32,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}


def numpy_type(kind: str) -> type[Any]:
    """Return numpy's type for Triton's name of one, such as FP16; raise KeyError for no such."""
    return _TYPES[kind]


def cache_folder(parameters: Mapping[str, str]) -> Path | None:
    """Return where compiled kernels are kept; None: nowhere."""
    given = parameters.get("runtime_cache")
    if given is not None:
        return Path(given) if given else None
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "maisi-triton")


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; a folder that cannot be written stays as it is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except OSError:
        return


def logger(trt: Any) -> Any:
    """Return a logger of TensorRT-RTX that keeps its errors."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.errors.append(message)

        def last(self) -> str:
            """Return what went wrong first since the last time."""
            first = self.errors[0] if self.errors else "no reason given"
            self.errors.clear()
            return first

    return Log()
