"""OpenVINO: the fastest library for these networks on a CPU, see docs/benchmarks.md."""

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

_KEPT = 2  # sets of shapes: all slabs but the last, and the last
_TIMES = 3  # what goes in and comes out, a run takes at most


def cores() -> int:
    """Count the cores this process may use: its affinity, capped by the container's CPU quota."""
    count = len(os.sched_getaffinity(0))
    quota = cgroup.cpus()
    return count if quota is None else max(1, min(count, int(quota)))


@functools.cache
def core() -> Any:
    """Return OpenVINO's core, one for the whole life of the process.

    It gives the thread that it is made in a stack for signals. Where it ends in another thread
    (OpenVINO 2026.4.1), as garbage does, that stack is gone and the next signal ends the process.
    Raises RuntimeError where OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise RuntimeError(f"this server lacks OpenVINO ({error}): {INSTALL}") from None
    return openvino.Core()


class Engine:
    """An ONNX file on the CPU, in float32 whatever its weights are.

    Where Winograd's convolutions help it is compiled for the shapes it gets, with them and in
    channels last, and the two last sets of shapes are kept. Else it is compiled once.
    """

    def __init__(self, path: Path, threads: int = 0, innermost: bool = False) -> None:
        """Load the file; `threads` 0: every core we may use.

        `innermost`: arrays of five axes [R, C, X, Y, Z] come and go with C innermost in memory.
        Raises RuntimeError when it cannot be loaded, and where OpenVINO is not installed.
        """
        self.innermost = innermost
        self.threads = threads or cores()
        self.model = core().read_model(str(path))
        self.inputs = [port.get_any_name() for port in self.model.inputs]
        self.outputs = [port.get_any_name() for port in self.model.outputs]
        self.compiled: dict[tuple[tuple[int, ...], ...], Any] = {}
        self.at: tuple[tuple[int, ...], ...] = ()
        self.request: Any = None
        self.fixed = innermost or winograd.helps(self.model)
        if not self.fixed:  # at load, so that a file that cannot be compiled is refused there
            self.compiled[()] = self._compile(self.model)

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs [by name], which the next call overwrites.

        Raises RuntimeError for inputs that do not fit; what `out_of_memory` knows where memory is
        short. The next call computes as if this one had not been.
        """
        shapes = tuple(tuple(feeds[name].shape) for name in self.inputs) if self.fixed else ()
        if shapes not in self.compiled:
            expect(SPARE)
            if len(self.compiled) == _KEPT:
                del self.compiled[next(iter(self.compiled))]
            self.compiled[shapes] = self._compile(self._changed(shapes) if shapes else self.model)
        compiled = self.compiled[shapes]
        # oneTBB ends the process where the last kilobytes go; so it must not come to that.
        expect(SPARE + _TIMES * (sum(feeds[name].nbytes for name in self.inputs) + made(compiled)))
        if self.request is None or self.at != shapes:
            self.at, self.request = shapes, compiled.create_infer_request()
        turned = {name: self._turn(feeds[name], channels_last.LAST) for name in self.inputs}
        try:
            self.request.infer(turned, share_inputs=True)
        except Exception:
            # OpenVINO 2026.4.1: every later run of a compiled model whose run raised fails, too.
            self.request = None
            del self.compiled[shapes]
            raise
        return {
            name: self._turn(self.request.get_tensor(name).data, channels_last.FIRST)
            for name in self.outputs
        }

    def _turn(self, array: Array, order: tuple[int, ...]) -> Array:
        return array.transpose(order) if self.innermost and array.ndim == 5 else array

    def _changed(self, shapes: Sequence[tuple[int, ...]]) -> Any:
        import openvino

        model = self.model.clone()
        model.reshape(dict(zip(self.inputs, map(openvino.PartialShape, shapes), strict=True)))
        return channels_last.change(model, winograd.convolve, self.innermost)

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
        """Give back the memory that runs have taken; outputs are gone with it."""
        self.request = None
        for compiled in self.compiled.values():
            compiled.release_memory()
        trim()

    def forget(self) -> None:
        """Give back what was compiled for shapes, too; the model itself stays."""
        self.request = None
        if self.fixed:
            self.compiled.clear()
        self.release()


def made(compiled: Any) -> int:
    """Return the bytes of a compiled model's outputs, as far as their shapes are known."""
    known = [port for port in compiled.outputs if port.get_partial_shape().is_static]
    return sum(math.prod(port.get_shape()) * port.get_element_type().size for port in known)


def sentence(error: Exception, folder: Path | None = None) -> str:
    """Reduce an error to one line that names no folder of this server and no source file."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = " ".join((lines or [type(error).__name__])[-1].split())
    text = text if folder is None else text.replace(f"{folder}/", "")
    return "OpenVINO: " + re.sub(r"(?<!\w)/\S*/", "", text)
