"""Runs TensorRT-RTX plans on an RTX GPU, as Triton's own backend runs those of TensorRT.

A model's version folder holds `model.plan`, or what default_model_filename names, and beside it
its description `model.plan.json`, both written by `python -m export`. Where there is one for the
device alone, such as `model_sm89.plan`, that is taken. Parameters in config.pbtxt:

    runtime_cache   folder that keeps the kernels compiled for this GPU from one start to the next;
                    absent: maisi-triton in $XDG_CACHE_HOME or ~/.cache; empty: nothing is kept
    FORCE_CPU_ONLY_INPUT_TENSORS   Triton's own: "no" lets tensors that are on the GPU come as
                    they are; else Triton copies them to the CPU, and we copy them back

Memory of the GPU is CuPy's: its arrays speak DLPack in both directions, and its pool hands what one
request freed to the next. CUDA's own Python bindings offer neither. None of its kernels are used,
so the CUDA toolkit is not needed. The pool also has the engine's scratch memory, as much as the
request's shapes need: TensorRT by itself would hold what the largest shapes need from the start.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

INSTALL = "pip install tensorrt-rtx-cu13==1.7.1.116 cupy-cuda13x==13.6.0"

Shape = tuple[int, ...]


class TritonPythonModel:
    """One instance of one engine."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the plan for the device that the instance was given.

        Raises TritonModelException with one sentence when there is no such device or plan.
        """
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"], args["model_version"])
        filename = config.get("default_model_filename") or "model.plan"
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        own = args["model_instance_kind"] == "GPU"  # else the instance has no device of its own
        device = int(args["model_instance_device_id"]) if own else 0
        try:
            self.engine = Engine(folder, filename, device, cache_folder(parameters))
        except (ValueError, RuntimeError) as error:
            raise pb_utils.TritonModelException(
                f"{args['model_name']}: {sentence(error, folder)}"
            ) from None

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request by itself; a request's failure is its own TritonError."""
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        """Run the engine on one request; outputs stay on the GPU."""
        given = {tensor.name(): tensor for tensor in request.inputs()}
        try:
            outputs = self.engine.run(given)
        except (ValueError, RuntimeError, MemoryError) as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(sentence(error)))
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor.from_dlpack(name, outputs[name])
                for name in request.requested_output_names()
            ]
        )

    def finalize(self) -> None:
        """Keep what was compiled, and free the GPU's memory."""
        self.engine.keep()
        del self.engine


class Engine:
    """A plan on a device, with the context it runs in."""

    def __init__(self, folder: Path, filename: str, device: int, cache: Path | None) -> None:
        """Load the plan; raise ValueError or RuntimeError where that cannot be."""
        cupy, trt = libraries()
        self.cupy, self.device = cupy, cupy.cuda.Device(device)
        capability = compute_capability(cupy, device)
        path = choose(folder, filename, capability)
        self.told = describe(path, capability)
        plan = path.read_bytes()
        with self.device:
            self.log = logger(trt)
            self.stream = cupy.cuda.Stream(non_blocking=True)
            self.runtime = trt.Runtime(self.log)
            self.plan = self.runtime.deserialize_cuda_engine(plan)
            if self.plan is None:
                raise ValueError(
                    f"{path.name}, built by TensorRT-RTX {self.told['version']}, does not load in"
                    f" {trt.__version__}: {self.log.last()}; export it again"
                )
            config = self.plan.create_runtime_config()
            strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
            config.set_execution_context_allocation_strategy(strategy)
            self.kept = config.create_runtime_cache()
            self.cache: Path | None = None
            if cache is not None:
                digest = hashlib.sha256(plan).hexdigest()
                self.cache = cache / f"{digest[:16]}-sm{capability.replace('.', '')}.cache"
                if self.cache.is_file():  # of another driver or GPU: refused, and compiled anew
                    self.kept.deserialize(self.cache.read_bytes())
            config.set_runtime_cache(self.kept)
            self.context = self.plan.create_execution_context(config)
            if self.context is None:
                raise RuntimeError(f"{path.name} cannot be run: {self.log.last()}")
        self.seen: set[tuple[tuple[str, Shape], ...]] = set()

    def run(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs, CuPy arrays on the GPU, for Triton's tensors.

        Raises ValueError for shapes that the engine was not built for, MemoryError when the GPU has
        not enough memory, and RuntimeError when the engine fails.
        """
        shapes = {name: tuple(tensor.shape()) for name, tensor in tensors.items()}
        check(self.told["inputs"], shapes)
        with self.device, self.stream:
            # Named, so that what the engine reads lives until it has.
            given = {name: self.on_device(tensor) for name, tensor in tensors.items()}
            for name, array in given.items():
                self.context.set_input_shape(name, shapes[name])
                self.context.set_tensor_address(name, array.data.ptr)
            outputs = {}
            for name, told in self.told["outputs"].items():
                shape = tuple(self.context.get_tensor_shape(name))
                outputs[name] = self.cupy.empty(shape, numpy_type(told["type"]))
                self.context.set_tensor_address(name, outputs[name].data.ptr)
            size = self.context.update_device_memory_size_for_shapes()
            scratch = self.cupy.cuda.alloc(max(size, 1))
            self.context.set_device_memory(scratch.ptr, size)
            done = self.context.execute_async_v3(self.stream.ptr)
            self.stream.synchronize()
        if not done:
            raise RuntimeError(f"TensorRT-RTX: {self.log.last()}")
        if (met := tuple(sorted(shapes.items()))) not in self.seen:
            self.seen.add(met)
            self.keep()
        return outputs

    def on_device(self, tensor: Any) -> Any:
        """Return Triton's tensor as a CuPy array: itself where it is on the GPU, else a copy."""
        if tensor.is_cpu():
            return self.cupy.asarray(np.ascontiguousarray(tensor.as_numpy()))
        return self.cupy.from_dlpack(tensor)

    def keep(self) -> None:
        """Write the runtime cache for the next start; where that cannot be, nothing is kept."""
        if self.cache is not None:
            write(self.cache, bytes(self.kept.serialize()))


def libraries() -> tuple[Any, Any]:
    """Return CuPy and TensorRT-RTX; raise ValueError with what to install."""
    try:
        return importlib.import_module("cupy"), importlib.import_module("tensorrt_rtx")
    except ImportError as error:
        raise ValueError(f"this server lacks TensorRT-RTX ({error}): {INSTALL}") from None


def compute_capability(cupy: Any, device: int) -> str:
    """Return the device's, such as 8.9; raise ValueError where there is no such device."""
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise ValueError(f"TensorRT-RTX needs an NVIDIA GPU and its driver: {error}") from None
    if device >= count:
        raise ValueError(f"there is no GPU {device}; this server has {count}")
    digits = cupy.cuda.Device(device).compute_capability
    return f"{digits[:-1]}.{digits[-1]}"


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
    if target != "tensorrt-rtx":
        raise ValueError(f"{path.name} is for {target}, not for tensorrt-rtx")
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


def numpy_type(kind: str) -> type[Any]:
    """Return numpy's type for Triton's name of one, such as FP16; raise KeyError for no such."""
    found: type[Any] = pb_utils.triton_string_to_numpy(f"TYPE_{kind}")
    return found


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


def sentence(error: Exception, folder: Path | None = None) -> str:
    """Reduce an error to one line that names no folder of this server."""
    text = " ".join(str(error).split())
    return text if folder is None else text.replace(f"{folder}/", "")
