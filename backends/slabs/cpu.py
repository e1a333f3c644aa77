"""A chain on the CPU, with files for activations that do not fit into memory."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..engines import memory, onnx_runtime, openvino
from . import chain
from .arena import Arena, in_files
from .gpu import OnnxSubgraphEngine


class Cpu:
    """The CPU and its memory, with files for activations that do not fit."""

    enough = 150e6  # bytes; a larger slab is not faster
    share = 0.5  # of the free memory

    def __init__(
        self,
        spill: Path,
        threads: int,
        spill_gigabytes: float | None = None,
        by_onnx_runtime: bool = False,
        bfloat16: bool = False,
    ) -> None:
        """Set the folder of files and their limit, and the number of threads of an engine.

        `spill_gigabytes` is the limit in 10^9 bytes; None is half of the space that is free when
        a request runs. With `by_onnx_runtime`, ONNX Runtime runs the subgraphs, otherwise OpenVINO,
        with `bfloat16` in this type.
        """
        self.spill, self.threads, self.spill_gigabytes = spill, threads, spill_gigabytes
        self.by_onnx_runtime, self.bfloat16 = by_onnx_runtime, bfloat16
        self.engines: list[openvino.Engine] = []

    def engine(self, stem: Path) -> chain.SubgraphEngine:
        """Return the engine of the subgraph at `stem`, a path without suffix."""
        path = stem.with_suffix(".onnx")
        if self.by_onnx_runtime:
            return OnnxSubgraphEngine(onnx_runtime.Engine(path, onnx_runtime.cpu(self.threads)))
        self.engines.append(openvino.Engine(path, self.threads, True, self.bfloat16))
        return self.engines[-1]

    def forget(self) -> None:
        """Free all memory except that of the loaded networks."""
        for engine in self.engines:
            engine.cancel()
        for engine in self.engines:
            engine.forget()

    def end(self) -> None:
        """Return to the system the memory that each subgraph has freed for the next ones."""
        memory.trim()

    def available(self) -> int:
        """Return the bytes of free memory."""
        return memory.available()

    def arena(self, size: int) -> Arena:
        """Return an arena with `size` bytes of memory."""
        if self.spill_gigabytes is None:
            limit = shutil.disk_usage(self.spill).free / 2
        else:
            limit = self.spill_gigabytes * 1e9
        far = in_files(self.spill)
        return Arena(size, far=far, far_limit=limit, innermost=not self.by_onnx_runtime)
