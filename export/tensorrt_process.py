"""Calls of TensorRT or TensorRT-RTX in a process of its own: `python -m export.tensorrt_process`.

A separate process, because polygraphy drives only one of the two in a process and MONAI imports it
before the target is known, and because a crash or the kernel's out-of-memory killer then ends only
this process and not the export.

`tensorrt_plans` sends one request as JSON to standard input and reads one reply as JSON from
standard output; {"error": "a sentence"} is the reply to a request that fails. polygraphy
writes the profile, configures, compiles and runs. The ONNX parser is called directly, since
polygraphy prints its reasons and does not raise them.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export import element_limit

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
NAMES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
INSTALL = {
    "tensorrt": "pip install '.[tensorrt]' --extra-index-url https://pypi.nvidia.com, or use "
    "NVIDIA's image nvcr.io/nvidia/tensorrt of the same release as your Triton",
    "tensorrt-rtx": "pip install '.[rtx]'",
}
# TensorRT's names of types, and Triton's.
TYPES = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "INT64": "INT64",
    "INT32": "INT32",
    "UINT8": "UINT8",
    "BOOL": "BOOL",
}
# Name of an input -> its smallest, usual and largest shape.
Profile = dict[str, list[list[int]]]


def ready(target: str, compute_capabilities: list[str]) -> dict[str, Any]:
    """Return the target's `version` and the `compute_capabilities` that it would build for.

    Raises ValueError if the target cannot build.
    """
    local = gpu_capability()
    if target == "tensorrt" and local is None:
        raise ValueError("TensorRT builds on the GPU that it builds for, and there is none here")
    trt = tensorrt(target)
    supported = capabilities(trt, target, compute_capabilities, local)
    return {"version": trt.__version__, "compute_capabilities": supported}


def build(
    target: str,
    onnx: str,
    plan: str,
    profile: Profile,
    compute_capabilities: list[str],
    timing_cache: str | None,
    innermost: list[str],
) -> dict[str, Any]:
    """Write the plan; return `version`, `compute_capabilities`, `inputs`, `outputs` and
    `activation_bytes`.

    The inputs and outputs `innermost` get channels innermost in memory. `inputs` and `outputs` map
    a name to (type, shape), -1 for a dynamic size; `activation_bytes` is None where the builder
    does not report it. Raises ValueError if the target cannot build it.
    """
    builder_facts = ready(target, compute_capabilities)
    trt = tensorrt(target)
    log = logger(target)
    builder = trt.Builder(log)
    # Strongly typed: every tensor has the type that the ONNX file gives it.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    # From the path and not from bytes: weights may lie in a file beside it.
    if not parser.parse_from_file(onnx):
        raise ValueError(f"{onnx}: {NAMES[target]} does not parse it: {_reason(parser, log)}")
    sides = {
        "inputs": [network.get_input(index) for index in range(network.num_inputs)],
        "outputs": [network.get_output(index) for index in range(network.num_outputs)],
    }
    tensors_of = {
        side: {tensor.name: (TYPES[tensor.dtype.name], list(tensor.shape)) for tensor in tensors}
        for side, tensors in sides.items()
    }
    _check({name: shape for name, (_, shape) in tensors_of["inputs"].items()}, profile, onnx)
    element_limit.check(trt, network, profile, onnx)
    for tensor in (*sides["inputs"], *sides["outputs"]):
        if tensor.name in innermost:
            tensor.allowed_formats = 1 << int(trt.TensorFormat.DHWC8)
    if target == "tensorrt-rtx":
        timing_cache = None  # it times nothing
    try:
        supported = builder_facts["compute_capabilities"]
        config = _config(trt, target, profile, supported, timing_cache)
        plan_bytes = importlib.import_module("polygraphy.backend.trt").engine_bytes_from_network(
            (builder, network), config, save_timing_cache=timing_cache
        )
    except importlib.import_module("polygraphy.exception").PolygraphyException as error:
        reason = (log.errors or str(error).splitlines() or ["no reason given"])[0]
        raise ValueError(f"{onnx}: {NAMES[target]} cannot compile it: {reason}") from error
    Path(plan).write_bytes(plan_bytes)
    return {**builder_facts, **tensors_of, "activation_bytes": log.activations}


def run(target: str, plan: str, feeds: list[str], outputs: list[str]) -> dict[str, Any]:
    """Run the plan on each of the .npz files `feeds`; write the results to the files `outputs`.

    Raises ValueError without a GPU, or if the plan cannot run.
    """
    if gpu_capability() is None:
        raise ValueError("engine: a GPU is needed, and this machine has none")
    trt = tensorrt(target)
    backend = importlib.import_module("polygraphy.backend.trt")
    failure = importlib.import_module("polygraphy.exception").PolygraphyException
    try:
        # "runtime": memory for the shapes of this run, not for the largest ones.
        loader = backend.EngineFromPath(plan)
        with backend.TrtRunner(loader, allocation_strategy="runtime") as runner:
            innermost = {
                name
                for name in map(runner.engine.get_tensor_name, range(runner.engine.num_io_tensors))
                if runner.engine.get_tensor_format(name) == trt.TensorFormat.DHWC8
            }
            for feed, output in zip(feeds, outputs, strict=True):
                with np.load(feed) as arrays:
                    inputs = {
                        name: in_memory(array, name in innermost) for name, array in arrays.items()
                    }
                    # polygraphy cannot check its own form of an array.
                    results = runner.infer(inputs, check_inputs=not innermost)
                    np.savez(
                        output, **{name: from_memory(array) for name, array in results.items()}
                    )
    except failure as error:
        raise ValueError(f"{plan}: {NAMES[target]} cannot run it: {error}") from error
    return {}


def in_memory(array: Any, innermost: bool) -> Any:
    """Return polygraphy's form of an input [R, C, X, Y, Z], perhaps with C innermost in memory."""
    if not innermost:
        return array
    memory = np.ascontiguousarray(array.transpose(0, 2, 3, 4, 1))
    return importlib.import_module("polygraphy.common").FormattedArray(memory, array.shape)


def from_memory(array: Any) -> Any:
    """Return an output [R, C, X, Y, Z] of polygraphy; one with C innermost has bytes of float16."""
    if isinstance(array, np.ndarray):
        return array
    rows, channels, *sides = array.shape
    memory = np.asarray(array.array).view(np.uint8).ravel()[: 2 * int(np.prod(array.shape))]
    return memory.view(np.float16).reshape(rows, *sides, channels).transpose(0, 4, 1, 2, 3)


def gpu_capability() -> str | None:
    """Return the compute capability of the first GPU, such as 8.9; None if there is no GPU."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, count, value = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    numbers = []
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        numbers.append(str(value.value))
    return ".".join(numbers)


def tensorrt(target: str) -> Any:
    """Return the target's module, and import polygraphy with its log off.

    Raises ValueError if it is not installed.
    """
    try:
        trt = importlib.import_module(MODULES[target])
        log = importlib.import_module("polygraphy.logger").G_LOGGER
    except ImportError as error:
        raise ValueError(
            f"{NAMES[target]} is not installed here ({error}): {INSTALL[target]}"
        ) from error
    log.module_severity = log.CRITICAL + 1  # errors are raised, not printed
    return trt


def capabilities(trt: Any, target: str, requested: Sequence[str], local: str | None) -> list[str]:
    """Return `requested` sorted and without duplicates, by default the compute capability `local`.

    Raises ValueError for one that the target cannot build for.
    """
    if target == "tensorrt":
        allowed = [str(local)]
        reason = f"TensorRT builds only for the GPU of this machine, {local}"
    else:
        matches = (re.fullmatch(r"SM(\d+)(\d)", name) for name in trt.ComputeCapability.__members__)
        allowed = sorted((".".join(match.groups()) for match in matches if match), key=_numbers)
        reason = f"TensorRT-RTX {trt.__version__} builds for {', '.join(allowed)}"
    if not requested and local is None:
        raise ValueError("compute-capability: none is given, and this machine has no GPU")
    requested = requested or [str(local)]
    for value in requested:
        if value not in allowed:
            raise ValueError(f"compute-capability: {value!r} is not supported; {reason}")
    return sorted(set(requested), key=_numbers)


def _numbers(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))


def _reason(parser: Any, log: Any) -> str:
    """Return the parser's first error: its node and its description."""
    if parser.num_errors:
        error = parser.get_error(0)
        lines = [line for line in error.desc().splitlines() if not _about_drivers(line)]
        node = f"node {error.node_name()} ({error.node_operator()}): " if error.node_name() else ""
        return node + " ".join(lines[-1:])
    return " ".join(log.errors[:1]) or "no reason given"


def _check(shapes: dict[str, list[int]], profile: Profile, onnx: str) -> None:
    """Raise ValueError unless the profile has every input with a dynamic size, and those fit."""
    dynamic = {name: shape for name, shape in shapes.items() if -1 in shape}
    if set(dynamic) != set(profile):
        raise ValueError(
            f"profile: it has {sorted(profile)}, and {onnx} has dynamic sizes in {sorted(dynamic)}"
        )
    for name, shape in dynamic.items():
        for sizes in profile[name]:
            pairs = zip(shape, sizes, strict=False)
            if len(sizes) != len(shape) or any(size not in (-1, value) for size, value in pairs):
                raise ValueError(f"profile: {name} is {shape} in {onnx}, not {sizes}")
        low, usual, high = profile[name]
        if not all(a <= b <= c for a, b, c in zip(low, usual, high, strict=True)):
            raise ValueError(f"profile: {name} has {low}, {usual}, {high}, not in ascending order")


def _config(
    trt: Any, target: str, profile: Profile, supported: Sequence[str], timing_cache: str | None
) -> Any:
    """Return the function that creates the builder's configuration, as polygraphy calls it."""
    backend = importlib.import_module("polygraphy.backend.trt")
    shapes = backend.Profile()
    for name, (low, usual, high) in profile.items():
        shapes.add(name, low, usual, high)
    if target == "tensorrt-rtx":
        create = importlib.import_module("polygraphy.backend.tensorrt_rtx").CreateConfigRTX(
            compute_capabilities=[_numbers(value) for value in supported], profiles=[shapes]
        )
    else:
        if timing_cache is not None:
            Path(timing_cache).touch()
        create = backend.CreateConfig(profiles=[shapes], load_timing_cache=timing_cache)

    def configuration(builder: Any, network: Any) -> Any:
        config = create(builder, network)
        # TensorRT's default, TF32, rounds the inputs of convolutions to ten bits of mantissa.
        config.clear_flag(trt.BuilderFlag.TF32)
        return config

    return configuration


@functools.cache
def logger(target: str) -> Any:
    """Return the one logger of this process.

    `errors` are the messages of errors; `activations`: the bytes of a plan's activations at its
    largest shapes, the largest of all compute capabilities, None where none was logged.
    """
    trt = importlib.import_module(MODULES[target])

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.activations: int | None = None

        def log(self, severity: Any, message: str) -> None:
            if match := re.match(r"Total Activation Memory: (\d+) bytes", message):
                self.activations = max(self.activations or 0, int(match[1]))
            if severity <= trt.ILogger.ERROR and not _about_drivers(message):
                self.errors.append(" ".join(message.split()))

    return Logger()


def _about_drivers(message: str) -> bool:
    """Return whether `message` is the harmless one that TensorRT-RTX repeats without a GPU."""
    return "CUDA driver version is insufficient" in message


def main() -> int:
    """Answer the request on standard input; return the exit status."""
    request = json.load(sys.stdin)
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = str(int(request["target"] == "tensorrt-rtx"))
    actions: dict[str, Callable[..., dict[str, Any]]] = {"ready": ready, "build": build, "run": run}
    try:
        reply = actions[request.pop("action")](**request)
    except ValueError as error:
        reply = {"error": str(error)}
    print(json.dumps(reply))
    return 0


if __name__ == "__main__":
    sys.exit(main())
