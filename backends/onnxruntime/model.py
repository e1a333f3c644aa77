"""Runs ONNX models on the CPU, in place of Triton's own ONNX Runtime backend.

Triton Inference Server from PyPI has the Python backend only; that of NVIDIA's image, in C++,
computes for any client. Installed as a backend named `onnxruntime`, this file takes the same
config.pbtxt and reads the same settings of it: the execution accelerator `openvino` for the CPU,
which then runs the model instead, and the parameters

    intra_op_thread_count   threads inside one operator; 0 or absent: every core we may use
    inter_op_thread_count   operators at a time; more than 1 runs the graph in parallel mode
    enable_mem_arena        "1" keeps freed memory for the next request; absent: returned
    enable_mem_pattern      "1" plans memory by the shapes of earlier requests; absent: not
    memory.enable_memory_arena_shrinkage   "cpu:0" returns the arena's memory after each request
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

import onnxruntime as ort

if not __package__:  # Triton loads this file by itself; the folder of all backends is a package
    sys.path.append(str(Path(__file__).parents[2]))
    __package__ = "backends.onnxruntime"

from ..engines import guard, openvino
from ..engines.memory import SPARE, OutOfMemory, expect, trim, twice

Array = npt.NDArray[Any]
# Names of outputs and the inputs by name -> these outputs.
Run = Callable[[list[str], Mapping[str, Array]], list[Array]]
# Gives back memory that requests have taken; the inputs are those of any request.
Forget = Callable[[Mapping[str, Array]], None]


def session_options(parameters: dict[str, str]) -> ort.SessionOptions:
    """Translate config.pbtxt parameters into ONNX Runtime's session options.

    Raises ValueError with one sentence when a parameter that must be a number is not one.
    """

    def number(key: str) -> int:
        value = parameters.get(key, "0")
        if not value.isdecimal():
            raise ValueError(f"parameter {key} is {value!r}; allowed are whole numbers from 0")
        return int(value)

    options = ort.SessionOptions()
    options.intra_op_num_threads = number("intra_op_thread_count") or openvino.cores()
    options.inter_op_num_threads = number("inter_op_thread_count")
    if options.inter_op_num_threads > 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    # Volumes differ in size from request to request: memory kept for one is in the way of the next.
    options.enable_cpu_mem_arena = bool(number("enable_mem_arena"))
    options.enable_mem_pattern = bool(number("enable_mem_pattern"))
    return options


class TritonPythonModel:
    """One instance of one ONNX model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load `<version>/model.onnx`, or the file that default_model_filename names.

        Raises TritonModelException with one sentence when the model cannot be loaded.
        """
        config: dict[str, Any] = json.loads(args["model_config"])
        filename = config.get("default_model_filename") or "model.onnx"
        path = Path(args["model_repository"], args["model_version"], filename)
        parameters = {k: v["string_value"] for k, v in config["parameters"].items()}
        load = load_openvino if "openvino" in accelerators(config) else load_onnxruntime
        try:
            self.contract = guard.contract(config)
            self.run, self.forget = load(path, parameters)
        except Exception as error:
            raise pb_utils.TritonModelException(
                f"{args['model_name']}: {sentence(error, path)}"
            ) from None

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request by itself; a request's failure is its own TritonError."""
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        """Run the graph on one request."""
        names = list(request.requested_output_names())
        try:
            guard.admit(self.contract, request)
            feeds = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            guard.check(self.contract, feeds)
            arrays = twice(lambda: self.arrays(names, feeds), lambda: self.forget(feeds))
        except Exception as error:
            codes = pb_utils.TritonError
            return pb_utils.InferenceResponse(
                error=codes(sentence(error), guard.status(codes, error))
            )
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, array) for name, array in zip(names, arrays, strict=True)]
        )

    def arrays(self, names: list[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Return the outputs; Triton copies a buffer as it lies, so each is contiguous."""
        return [np.ascontiguousarray(array) for array in self.run(names, feeds)]

    def finalize(self) -> None:
        """Free the model's memory."""
        del self.run, self.forget


def accelerators(config: Mapping[str, Any]) -> list[str]:
    """Name the execution accelerators that a model's configuration asks for on the CPU."""
    asked = config.get("optimization", {}).get("execution_accelerators", {})
    return [accelerator["name"] for accelerator in asked.get("cpu_execution_accelerator", [])]


def load_onnxruntime(path: Path, parameters: dict[str, str]) -> tuple[Run, Forget]:
    """Return what runs the file at `path` by ONNX Runtime; only asked outputs leave it."""
    session = ort.InferenceSession(
        path, session_options(parameters), providers=["CPUExecutionProvider"]
    )
    options = ort.RunOptions()
    if shrink := parameters.get("memory.enable_memory_arena_shrinkage"):
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", shrink)
    # An arena shrinks at the end of a run alone; this one ends as it begins, with an error.
    ended = ort.RunOptions()
    ended.terminate = True
    ended.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def forget(feeds: Mapping[str, Array]) -> None:
        if parameters.get("enable_mem_arena", "0") != "0":
            with suppress(Exception):
                session.run(None, feeds, ended)
        trim()

    def run(names: list[str], feeds: Mapping[str, Array]) -> list[Array]:
        expect(SPARE)  # where the last kilobytes go, its threads end the process
        outputs: list[Array] = session.run(names, feeds, options)
        return outputs

    return run, forget


def load_openvino(path: Path, parameters: dict[str, str]) -> tuple[Run, Forget]:
    """Return what runs the file at `path` by OpenVINO, which keeps memory while sizes stay."""
    engine = openvino.Engine(path, session_options(parameters).intra_op_num_threads)
    seen: dict[str, tuple[int, ...]] = {}

    def run(names: list[str], feeds: Mapping[str, Array]) -> list[Array]:
        shapes = {name: feed.shape for name, feed in feeds.items()}
        if seen and shapes != seen:
            engine.release()
        seen.update(shapes)
        outputs = engine(feeds)
        return [outputs[name].copy() for name in names]  # the next call writes into the same memory

    return run, lambda feeds: engine.forget()


def sentence(error: Exception, path: Path | None = None) -> str:
    """Reduce a library's message to one line that names no file of this server or its source."""
    if isinstance(error, OutOfMemory | guard.Refused):
        return str(error)
    if "OpenVINO" in str(error) or "Exception from src/" in str(error):
        return openvino.sentence(error, path and path.parent)
    text = " ".join(str(error).split())
    if path is not None:
        text = text.replace(str(path), path.name)
    return "ONNX Runtime: " + re.sub(r"/\S+:\d+ .*?\) ", "", text)
