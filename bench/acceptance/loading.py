"""Load a model of a repository into a named engine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from backends.engines import onnx_runtime, tensorrt
from backends.slabs.chain_runner import ChainRunner
from backends.slabs.cpu import Cpu
from backends.slabs.gpu import Gpu
from bench.in_process import open_graph
from bench.workload import Array

Run = Callable[[Mapping[str, Any]], Mapping[str, Any]]
# For each engine, the target of `python -m export build` whose files it runs.
TARGETS = {
    "openvino": "onnx",
    "onnxruntime": "onnx",
    "onnxruntime-cuda": "onnx",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx",
}


def load(folder: Path, name: str) -> Run:
    """Return a function that runs the model of a version folder in the engine `name`.

    `name` is a key of `TARGETS`. The function takes inputs by name and ignores inputs that the
    graph does not have. Its outputs, by name, may be on the GPU, and the next call may overwrite
    them.
    """
    if (folder / "chain.json").is_file():
        return _run_of(chain_runner(folder, name))
    if name.startswith("tensorrt"):
        plan = tensorrt.Engine(folder, "model.plan", 0, None)
        return _only(list(plan.description["inputs"]), plan.run)
    path = folder / "model.onnx"
    names = [value.name for value in onnx.load(path, load_external_data=False).graph.input]
    if name == "openvino":
        return _only(names, open_graph(folder))
    device = onnx_runtime.cpu() if name == "onnxruntime" else onnx_runtime.gpu(0)
    return _only(names, onnx_runtime.Engine(path, device).run)


def chain_runner(folder: Path, name: str) -> ChainRunner:
    """Return the chain in a version folder, on the device of engine `name`."""
    device: Cpu | Gpu
    if name in ("openvino", "onnxruntime"):
        spill = Path(tempfile.gettempdir())
        device = Cpu(spill, 0, by_onnx_runtime=name == "onnxruntime")
    else:
        device = Gpu(0, None, by_onnx_runtime=name == "onnxruntime-cuda")
    return ChainRunner(folder / "chain.json", device)


def host(array: Any) -> Array:
    """Return an array in the host's memory."""
    in_memory: Array = array if isinstance(array, np.ndarray) else array.get()
    return in_memory


def _only(names: list[str], run: Run) -> Run:
    return lambda inputs: run({name: x for name, x in inputs.items() if name in names})


def _run_of(runner: ChainRunner) -> Run:
    def run(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        (x,) = inputs.values()
        y, name = runner(host(x)), runner.chain.output
        return {name: host(y) if name == "image" else y}  # the caller reads the image on the host

    return run
