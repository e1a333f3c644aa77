"""Runs networks that export has cut into stages, slab by slab: any size, bounded memory, exactly.

A model's version folder holds `chain.json`, which says how the stages hang together, and their
files: ONNX, or plans for a GPU; `backends/engines/choice.py` says what runs them. Parameters in
config.pbtxt:

    memory_budget_gb   memory that a request may take in 10^9 bytes; absent: half of what is free,
                       on a GPU 85 %
    spill_folder       where activations go that do not fit; absent: the folder for temporary files;
                       on a GPU they go to the host's memory
    spill_limit_gb     how much a request may have there in 10^9 bytes; absent: half of what is free
    engine, thread_count, runtime_cache   as `backends/engines/network.py` has them
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.append(str(Path(__file__).parents[2]))  # Triton loads this file by itself

from backends.engines import choice, cuda, guard
from backends.engines.tensorrt import cache_folder
from backends.slabs.gpu import Gpu
from backends.slabs.network import Host, Network


class TritonPythonModel:
    """One instance of one chain."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load every stage.

        Raises TritonModelException with one sentence when a file or a parameter is wrong.
        """
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"], args["model_version"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.axes = len(config["output"][0]["dims"])  # labels have no axis of channels
        self.output = config["output"][0]["name"]
        try:
            self.contract = guard.contract(config)
            gigabytes = float(parameters.get("memory_budget_gb", "0"))
            path = folder / (config.get("default_model_filename") or "chain.json")
            chosen = choice.choose(folder, choice.gpu_of(args), parameters)
            by_onnx_runtime = chosen.engine == choice.ONNX_RUNTIME
            if chosen.gpu is not None:
                cache = cache_folder(parameters)
                device: Host | Gpu = Gpu(chosen.gpu, cache, by_onnx_runtime)
                cuda.expect_driver_library()
            else:
                spill = Path(parameters.get("spill_folder") or gettempdir())
                limit = float(parameters.get("spill_limit_gb", "0"))
                device = Host(spill, choice.threads(parameters), limit, by_onnx_runtime)
            self.network = Network(path, device, gigabytes, pb_utils.Logger.log_warn)
        except Exception as error:
            raise pb_utils.TritonModelException(
                f"{args['model_name']}: {sentence(error, folder)}"
            ) from None
        self.engine_metric = choice.publish(pb_utils, args["model_name"], chosen)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request by itself; a request's failure is its own TritonError."""
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        """Run the chain on one request."""
        try:
            guard.admit(self.contract, request)
            (tensor,) = request.inputs()
            array = tensor.as_numpy()
            guard.check(self.contract, {tensor.name(): array})
            found = self.network(array)
            found = found if isinstance(found, np.ndarray) else cuda.handed_on(found)
        except Exception as error:
            codes = pb_utils.TritonError
            return pb_utils.InferenceResponse(
                error=codes(sentence(error), guard.status(codes, error))
            )
        found = found[:, 0] if self.axes == 4 else found
        if isinstance(found, np.ndarray):
            return pb_utils.InferenceResponse([pb_utils.Tensor(self.output, found)])
        return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack(self.output, found)])

    def finalize(self) -> None:
        """Free the networks' memory."""
        del self.network


def sentence(error: Exception, folder: Path | None = None) -> str:
    """Reduce an error to one line that names no folder of this server."""
    if isinstance(error, KeyError | TypeError):
        return "chain.json is damaged; export the model again"
    if isinstance(error, OSError):
        return f"{Path(error.filename or 'a file of activations').name}: {error.strerror}"
    return choice.sentence(error, folder)
