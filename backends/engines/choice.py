"""The choice of a network's engine and device: TensorRT or ONNX Runtime on a GPU, or OpenVINO.

The values of the parameter `engine` in config.pbtxt:

    onnxruntime         ONNX Runtime runs the ONNX files, on a CPU or instead of a plan
    openvino-bfloat16   OpenVINO runs them on the CPU, and computes in bfloat16
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import cuda, guard, onnx_runtime, openvino, tensorrt
from .memory import OutOfMemory

TENSORRT, ONNX_RUNTIME, OPENVINO = "TensorRT", "ONNXRuntime", "OpenVINO"
OPENVINO_BFLOAT16 = "OpenVINO-bfloat16"
_BY_PARAMETER = {"onnxruntime": ONNX_RUNTIME, "openvino-bfloat16": OPENVINO_BFLOAT16}


@dataclass(frozen=True)
class Choice:
    """An engine and the number of its GPU, None for the CPU.

    `unused` is the reason why a GPU is not used, or empty.
    """

    engine: str
    gpu: int | None
    unused: str = ""


def choose(folder: Path, gpu: int | None, parameters: Mapping[str, str]) -> Choice:
    """Return the engine for the network whose files are in `folder`.

    `gpu` is the GPU that Triton assigned to the instance, or None for the CPU. The parameter
    `engine` selects ONNX Runtime or OpenVINO in bfloat16. Without it the engine is OpenVINO on the
    CPU, and on a GPU TensorRT if there is a plan for this GPU, or else ONNX Runtime. Without an
    ONNX file the choice is TensorRT, whose error names the missing file. Raises ValueError for
    another value of the parameter, and if the selected engine has no ONNX file, no CUDA provider or
    no processor with bfloat16.
    """
    engine = parameters.get("engine")
    if engine is not None and engine not in _BY_PARAMETER:
        raise ValueError(
            f"parameter engine is {engine!r}; {', '.join(_BY_PARAMETER)}, or no such parameter, is"
            " expected"
        )
    if not any(folder.glob("*.onnx")):
        if engine is not None:
            raise ValueError(f"parameter engine is {engine}, but there is no ONNX file")
        return Choice(TENSORRT, gpu or 0)
    if engine == "openvino-bfloat16":
        if not openvino.has_bfloat16():
            raise ValueError(f"parameter engine is {engine}, but this processor has no bfloat16")
        unused = "" if gpu is None else f"GPU {gpu}: parameter engine is {engine}"
        return Choice(OPENVINO_BFLOAT16, None, unused)
    if gpu is None:
        names = ", ".join(f"{number} ({name})" for number, name in enumerate(cuda.gpus()))
        unused = f"GPUs here: {names}; the model was placed on the CPU" if names else ""
        return Choice(ONNX_RUNTIME if engine else OPENVINO, None, unused)
    if engine is None and _has_plan(folder, gpu):
        return Choice(TENSORRT, gpu)
    try:
        onnx_runtime.expect_provider()
    except ValueError as error:
        if engine is not None:
            raise
        return Choice(OPENVINO, None, f"GPU {gpu}: {error}")
    return Choice(ONNX_RUNTIME, gpu)


def gpu_of(args: Mapping[str, str]) -> int | None:
    """Return the GPU of an instance from the arguments of `initialize`; None for the CPU."""
    on_gpu = args["model_instance_kind"] == "GPU"
    return int(args["model_instance_device_id"]) if on_gpu else None


def threads(parameters: Mapping[str, str]) -> int:
    """Return the number of threads of a network on the CPU.

    Raises ValueError if the parameter is not a whole number.
    """
    value = parameters.get("thread_count", "0")
    if not value.isdecimal():
        raise ValueError(f"parameter thread_count is {value!r}; allowed are whole numbers from 0")
    return int(value) or openvino.cores()


def publish(pb_utils: Any, model: str, choice: Choice) -> Any:
    """Publish a model's engine as a metric of Triton; return objects that keep the metric alive."""
    family = pb_utils.MetricFamily(
        name="maisi_network_engine",
        description="Always 1; labels name the engine of a network, and why it uses no GPU",
        kind=pb_utils.MetricFamily.GAUGE,
    )
    device = "CPU" if choice.gpu is None else f"GPU {choice.gpu}"
    labels = {"model": model, "engine": choice.engine, "device": device, "unused": choice.unused}
    metric = family.Metric(labels=labels)
    metric.set(1)
    return family, metric


def sentence(error: Exception, folder: Path | None = None) -> str:
    """Return an engine's error as one line without folders of this server or source files."""
    if isinstance(error, OutOfMemory | guard.Refused):
        return str(error)
    if "OpenVINO" in str(error) or "Exception from src/" in str(error):
        return openvino.sentence(error, folder)
    text = " ".join(str(error).split())
    text = text if folder is None else text.replace(f"{folder}/", "")
    head = "Error in execution: "  # ONNX Runtime with IOBinding
    if text.startswith(head) or type(error).__module__.startswith("onnxruntime"):
        text = re.sub(r"/\S+:\d+ .*?\) ", "", text.removeprefix(head))
        return f"ONNX Runtime: {text}"
    return text


def _has_plan(folder: Path, gpu: int) -> bool:
    """Return whether `folder` has a plan that was built for a GPU."""
    plans = list(folder.glob("*.plan"))
    if not plans:
        return False
    capability = cuda.compute_capability(tensorrt.cupy(), gpu)
    for plan in plans:
        try:
            tensorrt.describe(plan, capability)
        except ValueError:
            continue
        return True
    return False
