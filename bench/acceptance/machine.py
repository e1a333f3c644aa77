"""Step `machine`: report the driver, the GPU, and the engines that load."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from backends.engines import cuda, onnx_runtime
from bench import page
from bench.acceptance import libcuda, loading
from bench.acceptance.steps import Case, NotDone, Setting, TableRows

TENSORRT = ("tensorrt", "tensorrt-rtx")
_ANY = "8.9"  # a compute capability for which TensorRT-RTX builds without a GPU


def cases(setting: Setting) -> list[Case]:
    """Return the cases of this step."""
    return [
        Case("computer", lambda: [{"is": page.machine()}]),
        Case("gpu", _gpus),
        Case("libcuda.so", _library),
        Case("cuda ipc", _ipc),
        Case("/dev/shm", lambda: [{"is": f"{shutil.disk_usage('/dev/shm').total / 1e6:.0f} MB"}]),
        *(Case(target, partial(_tensorrt, target)) for target in TENSORRT),
        Case("onnxruntime cuda", _onnxruntime),
        Case("cupy", _cupy),
        Case("torch cuda", _torch),
        Case("openvino", lambda: [{"is": f"{_module('openvino').__version__}"}]),
    ]


def _gpus() -> TableRows:
    driver = f"driver {libcuda.driver() or 'unknown'}, CUDA {libcuda.cuda()}"
    return [
        {"is": f"{gpu.name}, {gpu.memory / 1e9:.1f} GB, compute capability {gpu.capability}"}
        for gpu in libcuda.devices()
    ] + [{"is": driver}]


def _library() -> TableRows:
    libcuda.driver_library()
    try:
        cuda.expect_driver_library()
    except ValueError as error:
        raise NotDone(str(error)) from None
    return [{"is": "loads by that name"}]


def _ipc() -> TableRows:
    libcuda.devices()
    try:
        libcuda.share()
    except RuntimeError as error:
        raise NotDone(f"CUDA IPC does not work here: {error}") from None
    return [{"is": "another process read the same bytes"}]


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotDone(f"{name} does not load: {error}") from None


def _tensorrt(target: str) -> TableRows:
    from export import tensorrt_plans  # slow, because it imports MONAI

    gpu = libcuda.first()
    try:
        release, capabilities = tensorrt_plans.ready(target, () if gpu else (_ANY,))
    except ValueError as error:
        raise NotDone(str(error)) from None
    ability = f"builds for {', '.join(capabilities)}" if gpu else "builds, and runs on no GPU here"
    return [{"is": f"{release}, {ability}"}]


def _onnxruntime() -> TableRows:
    libcuda.devices()
    try:
        device = onnx_runtime.gpu(0)
    except (ImportError, ValueError) as error:
        raise NotDone(str(error)) from None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tiny.onnx")
        _write_sum(path)
        doubled = onnx_runtime.Engine(path, device).run({"x": np.ones(4, np.float32)})["y"]
    if loading.host(doubled).tolist() != [2.0] * 4:
        raise RuntimeError("ONNX Runtime computes a wrong sum on the GPU")
    return [{"is": version("onnxruntime-gpu")}]


def _write_sum(path: Path) -> None:
    """Write a graph that adds its input to itself."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    node = helper.make_node("Add", ["x", "x"], ["y"])
    graph = helper.make_graph([node], "sum", ends[:1], ends[1:])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)


def _cupy() -> TableRows:
    cupy = _module("cupy")
    libcuda.devices()
    array = cupy.empty(4, cupy.float32)
    array.set(np.arange(4, dtype=np.float32))
    if array.get().tolist() != [0.0, 1.0, 2.0, 3.0]:
        raise RuntimeError("CuPy does not return the array that was copied to the GPU")
    return [{"is": cupy.__version__}]


def _torch() -> TableRows:
    torch = _module("torch")
    if not torch.cuda.is_available():
        cuda_version = torch.version.cuda or "none"
        raise NotDone(f"torch {torch.__version__}, built for CUDA {cuda_version}, finds no GPU")
    total = float(torch.ones(4, device="cuda").sum())
    if total != 4:
        raise RuntimeError("PyTorch computes a wrong sum on the GPU")
    return [{"is": f"{torch.__version__}, cuDNN {torch.backends.cudnn.version()}"}]


def engine_names(setting: Setting) -> list[str]:
    """Return the engines of `bench.acceptance.loading` that load on this machine."""
    if not setting.gpu:
        return ["openvino", "onnxruntime"]
    attempts: dict[str, Callable[[], TableRows]] = {
        **{target: partial(_tensorrt, target) for target in TENSORRT},
        "onnxruntime-cuda": _onnxruntime,
    }
    names = []
    for name, attempt in attempts.items():
        with suppress(NotDone):
            attempt()
            names.append(name)
    return names
