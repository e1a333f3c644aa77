"""Runs networks that export has cut into stages, slab by slab: any size, bounded memory, exactly.

A model's version folder holds `chain.json`, which says how the stages hang together, and their
files: ONNX for the CPU, plans for a GPU. Parameters in config.pbtxt:

    memory_budget_gb   memory that a request may take in 10^9 bytes; absent: half of what is free
    spill_folder       where activations go that do not fit; absent: the folder for temporary files;
                       on a GPU they go to the host's memory
    thread_count       absent: every core we may use
    runtime_cache      as `backends/tensorrt_rtx` has it
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

if not __package__:  # Triton loads this file by itself; the folder of all backends is a package
    sys.path.append(str(Path(__file__).parents[2]))
    __package__ = "backends.slabs"

from ..engines import openvino, tensorrt
from ..engines.tensorrt import cache_folder
from . import budget, chain
from .room import Room, in_files

Array = npt.NDArray[Any]


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
        own = args["model_instance_kind"] == "GPU"  # else the instance has no device of its own
        device = int(args["model_instance_device_id"]) if own else 0
        try:
            self.gigabytes = float(parameters.get("memory_budget_gb", "0"))
            threads = int(parameters.get("thread_count", "0"))
            path = folder / (config.get("default_model_filename") or "chain.json")
            if any(folder.glob("*.plan")):
                self.place: Host | Gpu = Gpu(device, cache_folder(parameters))
            else:
                self.place = Host(Path(parameters.get("spill_folder") or gettempdir()), threads)
            self.chain = chain.load(path, self.place.engine)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise pb_utils.TritonModelException(
                f"{args['model_name']}: {sentence(error, folder)}"
            ) from None

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request by itself; a request's failure is its own TritonError."""
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        """Run the chain on one request."""
        (tensor,) = request.inputs()
        try:
            found = self.run(tensor.name(), tensor.as_numpy())
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(sentence(error)))
        if isinstance(found, np.ndarray):
            return pb_utils.InferenceResponse([pb_utils.Tensor(self.output, found)])
        return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack(self.output, found)])

    def run(self, name: str, given: Array) -> Any:
        """Return the chain's output for one input [R, C, X, Y, Z], or of labels [R, X, Y, Z]."""
        x = given[:, None] if given.ndim == 4 else given
        step = self.chain.planes[self.chain.input]
        if 0 in x.shape or any(side % step for side in x.shape[2:]):
            raise ValueError(f"{name}: {list(given.shape)}, but sides must be multiples of {step}")
        memory = int(self.gigabytes * 1e9) or self.place.available() // 2
        thickness, left = budget.divide(self.chain, x.shape, memory)
        found = chain.run(self.chain, x, thickness, self.place.room(left))
        return found[:, 0] if self.axes == 4 else found

    def finalize(self) -> None:
        """Free the networks' memory."""
        del self.chain


class Host:
    """The CPU and its memory, with files for what does not fit."""

    def __init__(self, spill: Path, threads: int) -> None:
        """Keep where files go and how many threads engines have."""
        self.spill, self.threads = spill, threads

    def engine(self, stem: Path) -> chain.Engine:
        """Load a stage by its path without suffix."""
        return openvino.Engine(stem.with_suffix(".onnx"), self.threads)

    def available(self) -> int:
        """Return the bytes to be had."""
        return budget.available()

    def room(self, size: int) -> Room:
        """Return a room with `size` bytes of memory."""
        return Room(size, np.empty, in_files(self.spill))


class Gpu:
    """A GPU and its memory, with the host's for what does not fit."""

    def __init__(self, device: int, cache: Path | None) -> None:
        """Take a device by its number; raise ValueError where CuPy is not installed."""
        self.cupy = tensorrt.library("cupy", f"pip install {tensorrt.CUPY}")
        self.device, self.cache = device, cache

    def engine(self, stem: Path) -> chain.Engine:
        """Load a stage by its path without suffix."""
        return OnGpu(tensorrt.Engine(stem.parent, f"{stem.name}.plan", self.device, self.cache))

    def available(self) -> int:
        """Return the bytes to be had."""
        with self.cupy.cuda.Device(self.device):
            free: int = self.cupy.cuda.runtime.memGetInfo()[0]
            return free + int(self.cupy.get_default_memory_pool().free_bytes())

    def room(self, size: int) -> Room:
        """Return a room with `size` bytes of memory."""
        self.cupy.cuda.Device(self.device).use()
        return Room(size, self.cupy.empty, np.empty, self.cupy.asarray)


class OnGpu:
    """A plan as a chain calls it."""

    def __init__(self, engine: tensorrt.Engine) -> None:
        """Take the plan over."""
        self.engine = engine

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run it; outputs stay on the GPU but for the moments, which are few numbers."""
        found = self.engine.run(feeds)
        return {name: array.get() if array.ndim == 1 else array for name, array in found.items()}

    def release(self) -> None:
        """Nothing is held: memory is the pool's."""


def sentence(error: Exception, folder: Path | None = None) -> str:
    """Reduce an error to one line that names no folder of this server."""
    if "Exception from src/" in str(error):
        return openvino.sentence(error, folder)
    if isinstance(error, KeyError | TypeError):
        return "chain.json is damaged; export the model again"
    if isinstance(error, OSError):
        return f"{Path(error.filename or 'a file of activations').name}: {error.strerror}"
    return tensorrt.sentence(error, folder)
