"""Runs plans of TensorRT-RTX and of TensorRT on a GPU, for the stages of their variant alone.

A model's version folder holds `model.plan`, or what default_model_filename names, and beside it
its description `model.plan.json`, both written by `python -m export`. Where there is one for the
device alone, such as `model_sm89.plan`, that is taken. Parameters in config.pbtxt:

    runtime_cache   folder that keeps the kernels compiled for this GPU from one start to the next;
                    absent: maisi-triton in $XDG_CACHE_HOME or ~/.cache; empty: nothing is kept
    FORCE_CPU_ONLY_INPUT_TENSORS   Triton's own: "no" lets tensors that are on the GPU come as
                    they are; else Triton copies them to the CPU, and we copy them back
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

if not __package__:  # Triton loads this file by itself; the folder of all backends is a package
    sys.path.append(str(Path(__file__).parents[2]))
    __package__ = "backends.tensorrt_rtx"

from ..engines import cuda, guard
from ..engines.memory import twice
from ..engines.tensorrt import Engine, cache_folder, sentence


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
            self.contract = guard.contract(config)
            self.engine = Engine(folder, filename, device, cache_folder(parameters))
            cuda.expect_driver_library()
        except (ValueError, RuntimeError) as error:
            raise pb_utils.TritonModelException(
                f"{args['model_name']}: {sentence(error, folder)}"
            ) from None

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request by itself; a request's failure is its own TritonError."""
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        """Run the engine on one request; outputs stay on the GPU where models can take them."""
        try:
            guard.admit(self.contract, request)
            arrays = {tensor.name(): self.array(tensor) for tensor in request.inputs()}
            guard.check(self.contract, arrays)
            outputs = twice(lambda: self.engine.run(arrays), self.engine.forget)
            tensors = [
                as_tensor(name, cuda.handed_on(outputs[name]))
                for name in request.requested_output_names()
            ]
        except (ValueError, RuntimeError, MemoryError) as error:
            codes = pb_utils.TritonError
            return pb_utils.InferenceResponse(
                error=codes(sentence(error), guard.status(codes, error))
            )
        return pb_utils.InferenceResponse(tensors)

    def array(self, tensor: Any) -> Any:
        """Return Triton's tensor as an array of CuPy where it is on the GPU, else of numpy."""
        return tensor.as_numpy() if tensor.is_cpu() else self.engine.cupy.from_dlpack(tensor)

    def finalize(self) -> None:
        """Keep what was compiled, and free the GPU's memory."""
        self.engine.keep()
        del self.engine


def as_tensor(name: str, array: Any) -> Any:
    """Name an array of numpy or CuPy for Triton."""
    if isinstance(array, np.ndarray):
        return pb_utils.Tensor(name, array)
    return pb_utils.Tensor.from_dlpack(name, array)
