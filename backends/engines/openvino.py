"""ONNX files run by OpenVINO, the fastest library for them on a CPU (see benchmarks.md)."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import Array, cgroup, channels_last, winograd
from .memory import SPARE, expect, trim

INSTALL = "pip install openvino==2026.4.1"

_COMPILED = 2  # models kept: for the shapes of all slabs but the last, and for those of the last
_PEAK = 3  # the most memory of a run, in multiples of its inputs and outputs


def cores() -> int:
    """Count the cores this process may use: its affinity, capped by the container's CPU quota."""
    count = len(os.sched_getaffinity(0))
    quota = cgroup.cpus()
    return count if quota is None else max(1, min(count, int(quota)))


@functools.cache
def core() -> Any:
    """Return OpenVINO's core, which lives as long as the process.

    It allocates a signal stack for the thread that creates it. Destroyed in another thread, as by
    garbage collection, it frees that stack, and the next signal ends the process (OpenVINO
    2026.4.1). Raises RuntimeError where OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise RuntimeError(f"this server lacks OpenVINO ({error}): {INSTALL}") from None
    return openvino.Core()


class Engine:
    """An ONNX file on the CPU, computed in float32 for any type of weights.

    Where Winograd's convolutions help, it is compiled with them, in channels last, for each set of
    shapes, and the models of the last two sets are kept. Else it is compiled once.
    """

    def __init__(self, path: Path, threads: int = 0, innermost: bool = False) -> None:
        """Load the file; `threads` 0: every core that this process may use.

        `innermost`: inputs and outputs [R, C, X, Y, Z] have C innermost in memory.
        Raises RuntimeError when it cannot be loaded, and where OpenVINO is not installed.
        """
        self.innermost = innermost
        self.threads = threads or cores()
        self.model = core().read_model(str(path))
        self.inputs = [port.get_any_name() for port in self.model.inputs]
        self.outputs = [port.get_any_name() for port in self.model.outputs]
        self.compiled: dict[tuple[tuple[int, ...], ...], Any] = {}
        self.request_shapes: tuple[tuple[int, ...], ...] = ()
        self.request: Any = None
        self.fixed = innermost or winograd.helps(self.model)
        if not self.fixed:  # now, so that a file that cannot be compiled is refused at load
            self.compiled[()] = self._compile(self.model)

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name, which the next call overwrites.

        Raises RuntimeError for inputs that do not fit, and errors that `out_of_memory` tells.
        An error does not affect the next call.
        """
        shapes = tuple(tuple(feeds[name].shape) for name in self.inputs) if self.fixed else ()
        if shapes not in self.compiled:
            expect(SPARE)
            if len(self.compiled) == _COMPILED:
                del self.compiled[next(iter(self.compiled))]
            self.compiled[shapes] = self._compile(self._converted(shapes) if shapes else self.model)
        compiled = self.compiled[shapes]
        # oneTBB ends the process when memory runs out in a run, so the run is refused before.
        input_bytes = sum(feeds[name].nbytes for name in self.inputs)
        expect(SPARE + _PEAK * (input_bytes + output_bytes(compiled)))
        if self.request is None or self.request_shapes != shapes:
            self.request_shapes, self.request = shapes, compiled.create_infer_request()
        inputs = {name: self._transpose(feeds[name], channels_last.LAST) for name in self.inputs}
        try:
            self.request.infer(inputs, share_inputs=True)
        except Exception:
            # OpenVINO 2026.4.1: after an error all later runs of a compiled model fail, too.
            self.request = None
            del self.compiled[shapes]
            raise
        return {
            name: self._transpose(self.request.get_tensor(name).data, channels_last.FIRST)
            for name in self.outputs
        }

    def _transpose(self, array: Array, order: tuple[int, ...]) -> Array:
        return array.transpose(order) if self.innermost and array.ndim == 5 else array

    def _converted(self, shapes: Sequence[tuple[int, ...]]) -> Any:
        import openvino

        model = self.model.clone()
        model.reshape(dict(zip(self.inputs, map(openvino.PartialShape, shapes), strict=True)))
        return channels_last.convert(model, winograd.convolve, self.innermost)

    def _compile(self, model: Any) -> Any:
        return core().compile_model(
            model,
            "CPU",
            {
                # Where the CPU has bfloat16, OpenVINO by itself would compute in that.
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": self.threads,
                "PERFORMANCE_HINT": "LATENCY",
            },
        )

    def release(self) -> None:
        """Free the memory of earlier runs, their outputs included."""
        self.request = None
        for compiled in self.compiled.values():
            compiled.release_memory()
        trim()

    def forget(self) -> None:
        """Free the models compiled for shapes, too; the file stays loaded."""
        self.request = None
        if self.fixed:
            self.compiled.clear()
        self.release()


def output_bytes(compiled: Any) -> int:
    """Return the bytes of a compiled model's outputs of static shape."""
    static = [port for port in compiled.outputs if port.get_partial_shape().is_static]
    return sum(math.prod(port.get_shape()) * port.get_element_type().size for port in static)


def sentence(error: Exception, folder: Path | None = None) -> str:
    """Reduce an error to one line that names no folder of this server and no source file."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = " ".join((lines or [type(error).__name__])[-1].split())
    text = text if folder is None else text.replace(f"{folder}/", "")
    return "OpenVINO: " + re.sub(r"(?<!\w)/\S*/", "", text)
