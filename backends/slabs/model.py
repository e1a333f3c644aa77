"""The models that run a chain slab by slab; a chain is a network divided into subgraphs.

A model's version folder has `chain.json`, which describes the chain, and the files of its
subgraphs, ONNX or plans for a GPU. `backends/engines/choice.py` selects the engine. Parameters in
config.pbtxt:

    memory_budget_gb   memory of a request in 10^9 bytes; absent: half of the free memory, on a GPU
                       85 %
    spill_folder       folder of activations that do not fit; absent: the folder for temporary
                       files; on a GPU they go to the host's memory
    spill_limit_gb     the most bytes of a request there, in 10^9; absent: half of the free space
    grey_levels        `intensity` of a variant, in JSON: the output is whole grey levels, int16
    engine, thread_count, runtime_cache   as in `backends/engines/network.py`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.append(str(Path(__file__).parents[2]))  # Triton loads this file by itself

from backends.engines import choice, cuda, grey_levels, guard
from backends.engines.tensorrt import cache_folder
from backends.slabs.chain_runner import ChainRunner
from backends.slabs.cpu import Cpu
from backends.slabs.gpu import Gpu


class TritonPythonModel:
    """One instance of one chain."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load every subgraph.

        Raises TritonModelException with one sentence if a file or a parameter is wrong.
        """
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"], args["model_version"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.axes = len(config["output"][0]["dims"])  # four for labels, which have no channels
        self.output = config["output"][0]["name"]
        try:
            self.contract = guard.contract(config)
            gigabytes = float(parameters.get("memory_budget_gb", "0"))
            path = folder / (config.get("default_model_filename") or "chain.json")
            selected = choice.choose(folder, choice.gpu_of(args), parameters)
            by_onnx_runtime = selected.engine == choice.ONNX_RUNTIME
            self.compiles = selected.engine in (choice.OPENVINO, choice.OPENVINO_BFLOAT16)
            if selected.gpu is not None:
                cache = cache_folder(parameters)
                device: Cpu | Gpu = Gpu(selected.gpu, cache, by_onnx_runtime)
                cuda.expect_driver_library()
            else:
                spill = Path(parameters.get("spill_folder") or gettempdir())
                limit = parameters.get("spill_limit_gb")
                spill_gigabytes = None if limit is None else float(limit)
                is_bfloat16 = selected.engine == choice.OPENVINO_BFLOAT16
                threads = choice.threads(parameters)
                device = Cpu(spill, threads, spill_gigabytes, by_onnx_runtime, is_bfloat16)
            convert = None
            if "grey_levels" in parameters:
                convert = partial(grey_levels.convert, json.loads(parameters["grey_levels"]))
            self.runner = ChainRunner(path, device, gigabytes, pb_utils.Logger.log_warn, convert)
        except Exception as error:
            raise pb_utils.TritonModelException(
                f"{args['model_name']}: {sentence(error, folder)}"
            ) from None
        self.engine_metric = choice.publish(pb_utils, args["model_name"], selected)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request separately; a failed request gets a TritonError."""
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        """Run the chain on one request."""
        try:
            guard.check_caller(self.contract, request)
            if (shapes := guard.later_shapes(self.contract, request)) is not None:
                if not self.compiles:
                    raise guard.Refused(guard.ANY_SHAPE)
                self.runner.prepare(*shapes.values())
                return pb_utils.InferenceResponse([])
            arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            guard.check_inputs(self.contract, arrays)
            output = self.runner(*arrays.values())
            output = output if isinstance(output, np.ndarray) else cuda.to_share(output)
        except Exception as error:
            codes = pb_utils.TritonError
            return pb_utils.InferenceResponse(
                error=codes(sentence(error), guard.status(codes, error))
            )
        output = output[:, 0] if self.axes == 4 else output
        if isinstance(output, np.ndarray):
            return pb_utils.InferenceResponse([pb_utils.Tensor(self.output, output)])
        return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack(self.output, output)])

    def finalize(self) -> None:
        """Free the chain's memory."""
        del self.runner


def sentence(error: Exception, folder: Path | None = None) -> str:
    """Return an error as one line without folders of this server."""
    if isinstance(error, KeyError | TypeError):
        return "chain.json is damaged or of an earlier version; export the model again"
    if isinstance(error, OSError):
        return f"{Path(error.filename or 'a file of activations').name}: {error.strerror}"
    return choice.sentence(error, folder)
