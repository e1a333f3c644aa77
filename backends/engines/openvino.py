"""Run ONNX files by OpenVINO, the fastest library for them on a CPU (see benchmarks.md)."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from . import Array, Target, cgroup, channels_last, group_norm, winograd
from .memory import SPARE, expect, is_free, trim

INSTALL = "pip install openvino==2026.4.1"

# Compiled models that are kept: the least, one for the last slab and one for all others; the most;
# and the bytes of weights of all.
_LEAST, _MOST, _WEIGHTS = 2, 16, 64 << 20
_PEAK = 3  # peak memory of a run, in multiples of its inputs and outputs
# Memory of a compiled model, in multiples of the weights in its file; with Winograd, which has more
# sums of the weights than weights, 132 MB were measured for 7 MB.
_COMPILED, _COMPILED_WINOGRAD = 6, 20
_AHEAD = 8 * SPARE  # bytes that have to be free in addition, to compile before a call
_COMPILING = 2  # most models that are compiled at a time, which is mostly work of one core each

Shapes = tuple[tuple[int, ...], ...]  # of the inputs of an engine, in their order


def cores() -> int:
    """Return the number of cores that the affinity and the CPU quota allow this process."""
    count = len(os.sched_getaffinity(0))
    quota = cgroup.cpus()
    return count if quota is None else max(1, min(count, int(quota)))


@functools.cache
def core() -> Any:
    """Return OpenVINO's core, which exists until the process ends.

    The core allocates a signal stack for the thread that creates it. If another thread destroys the
    core, for example by garbage collection, the stack is freed, and the next signal ends the
    process (OpenVINO 2026.4.1). Raises RuntimeError if OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise RuntimeError(f"this server lacks OpenVINO ({error}): {INSTALL}") from None
    return openvino.Core()


@functools.cache
def _compiler() -> ThreadPoolExecutor:
    """Return the threads that compile models."""
    return ThreadPoolExecutor(_COMPILING, "compile")


def has_bfloat16() -> bool:
    """Return whether this processor computes in bfloat16 (avx512_bf16 or amx_bf16 of lscpu)."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class Engine:
    """An ONNX file on the CPU, which is computed in float32 or bfloat16 for any type of weights.

    It is compiled for each set of shapes, in another thread, so that `prepare` can compile for the
    next call during a call. The models of the sets that were used last are kept: as many as
    `_WEIGHTS` allows. Where Winograd's convolutions are faster, it is compiled with them, in
    channels last. In bfloat16 their sums would lose too many digits.
    """

    def __init__(
        self, path: Path, threads: int = 0, innermost: bool = False, bfloat16: bool = False
    ) -> None:
        """Load the file; `threads` 0 means every core that this process may use.

        With `innermost`, inputs and outputs [R, C, X, Y, Z] have C innermost in memory. Raises
        RuntimeError if the file cannot be loaded, or OpenVINO is not installed.
        """
        self.innermost, self.bfloat16 = innermost, bfloat16
        self.threads = threads or cores()
        self.model = core().read_model(str(path))
        self.inputs = [port.get_any_name() for port in self.model.inputs]
        self.outputs = [port.get_any_name() for port in self.model.outputs]
        self.compiled: dict[Shapes, Future[Any]] = {}  # the last one was used last
        # Those of `prepare` without a call since, and the compilations for calls since then.
        self.announced: dict[Shapes, int] = {}
        self.request_shapes: Shapes = ()
        self.request: Any = None
        self.redirected: set[str] = set()  # outputs that the request writes to arrays of others
        self.wide = not bfloat16 and winograd.helps(self.model)
        self.weights = weight_bytes(self.model)
        self.kept = _kept(self.weights)
        may_grow = self.wide or (innermost and not bfloat16)
        self.compiled_bytes = self.weights * (_COMPILED_WINOGRAD if may_grow else _COMPILED)

    def __call__(
        self, feeds: Mapping[str, Array], target: Target | None = None
    ) -> dict[str, Array]:
        """Return the outputs by name; the next call overwrites those without an array of `target`.

        Raises RuntimeError for inputs that do not fit, and errors that `out_of_memory` recognises.
        An error does not affect the next call.
        """
        shapes = tuple(tuple(feeds[name].shape) for name in self.inputs)
        self._use(shapes)
        try:
            compiled = self.compiled[shapes].result()
        except Exception:
            del self.compiled[shapes]
            raise
        # oneTBB ends the process if memory runs out during a run, so refuse the run before.
        input_bytes = sum(feeds[name].nbytes for name in self.inputs)
        expect(SPARE + _PEAK * (input_bytes + output_bytes(compiled)))
        if self.request is None or self.request_shapes != shapes:
            self._new_request(compiled, shapes)
        arrays = self._redirect(compiled, shapes, target)
        inputs = {
            name: channels_last.in_memory(feeds[name], self.innermost) for name in self.inputs
        }
        try:
            self.request.infer(inputs, share_inputs=True, share_outputs=True)
        except Exception:
            # OpenVINO 2026.4.1: after an error, all later runs of a compiled model also fail.
            self.request = None
            del self.compiled[shapes]
            raise
        return {
            name: arrays[name] if name in arrays else self._output(name) for name in self.outputs
        }

    def _new_request(self, compiled: Any, shapes: Shapes) -> None:
        self.request_shapes, self.request = shapes, compiled.create_infer_request()
        self.redirected = set()

    def _redirect(self, compiled: Any, shapes: Shapes, target: Target | None) -> dict[str, Array]:
        """Let the request write to the arrays of `target`; return them by the outputs' names."""
        import openvino

        arrays = {}
        for name in self.outputs:
            array = None if target is None else target(name, *self._memory(compiled.output(name)))
            if array is not None:
                arrays[name] = array
        if not self.redirected <= arrays.keys():
            self._new_request(compiled, shapes)
        for name, array in arrays.items():
            memory = channels_last.in_memory(array, self.innermost)
            self.request.set_tensor(name, openvino.Tensor(memory, shared_memory=True))
        self.redirected = set(arrays)
        return arrays

    def _memory(self, port: Any) -> tuple[tuple[int, ...], Any, bool]:
        """Return the shape and dtype of an output, and whether C is innermost in memory."""
        shape, innermost = tuple(port.get_shape()), self.innermost and len(port.get_shape()) == 5
        if innermost:
            shape = tuple(shape[axis] for axis in channels_last.FIRST)
        return shape, port.get_element_type().to_dtype(), innermost

    def _output(self, name: str) -> Array:
        array: Array = self.request.get_tensor(name).data
        return array.transpose(channels_last.FIRST) if self.innermost and array.ndim == 5 else array

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Begin to compile for a later call with inputs of these shapes, by their names.

        This does nothing if memory is short, or if it would replace the model of another announced
        call or of the last call. The later call then compiles. An announcement expires after as
        many compilations for calls as models are kept: its call may never come.
        """
        ordered = tuple(shapes[name] for name in self.inputs)
        if ordered in self.compiled:
            self.announced[ordered] = 0
        elif len(self.announced) < self.kept - 1 and is_free(_AHEAD + self.compiled_bytes):
            self.compiled[ordered] = self._compile(ordered)
            self.announced[ordered] = 0

    def _use(self, shapes: Shapes) -> None:
        """Put the model for inputs of these shapes at the end of `compiled`.

        If there is none, or if its compilation has failed, begin to compile it.
        """
        future = self.compiled.pop(shapes, None)
        self.announced.pop(shapes, None)
        if future is None or future.exception() is not None:
            future = self._compile(shapes)
            ages = {other: age + 1 for other, age in self.announced.items()}
            self.announced = {other: age for other, age in ages.items() if age < self.kept}
        self.compiled[shapes] = future

    def _compile(self, shapes: Shapes) -> Future[Any]:
        """Drop the models that are kept no longer, and begin to compile for `shapes`.

        Raises RuntimeError for shapes that cannot be, and errors that `out_of_memory` recognises.
        """
        for name, shape in zip(self.inputs, shapes, strict=True):
            if 0 in shape:  # OpenVINO 2026.4.1 would end the process
                raise RuntimeError(f"{name}: shape {list(shape)}, but no side may be 0")
        expect(SPARE)
        while len(self.compiled) >= self.kept:
            # the one that was used first, not counting those that are announced
            first = min(self.compiled, key=lambda other: other in self.announced)
            self.compiled.pop(first).cancel()
            self.announced.pop(first, None)
        return _compiler().submit(self._compiled, shapes)

    def _compiled(self, shapes: Shapes) -> Any:
        model = self._with_shapes(shapes)
        self.kept = _kept(weight_bytes(model))  # a converted model has other weights
        return core().compile_model(
            model,
            "CPU",
            {
                # On a CPU with bfloat16, OpenVINO would by default compute in bfloat16.
                "INFERENCE_PRECISION_HINT": "bf16" if self.bfloat16 else "f32",
                "INFERENCE_NUM_THREADS": self.threads,
                "PERFORMANCE_HINT": "LATENCY",
            },
        )

    def _with_shapes(self, shapes: Shapes) -> Any:
        import openvino

        model = self.model.clone()
        model.reshape(dict(zip(self.inputs, map(openvino.PartialShape, shapes), strict=True)))
        if self.innermost or (self.wide and winograd.is_large(model)):
            convolve = channels_last.convolve if self.bfloat16 else winograd.convolve
            return channels_last.convert(model, convolve, self.innermost)
        group_norm.fuse(model)
        return model

    def cancel(self) -> None:
        """Cancel the compilations that have not begun; a later call compiles again."""
        for future in self.compiled.values():
            future.cancel()

    def release(self) -> None:
        """Free the memory of earlier runs, including their outputs; `trim` returns it."""
        self.request = None
        for future in self.compiled.values():
            if future.done() and future.exception() is None:
                future.result().release_memory()

    def forget(self) -> None:
        """Free the memory of earlier runs and the compiled models; the file stays loaded."""
        self.cancel()
        # A compilation that has begun takes memory until it ends.
        wait([future for future in self.compiled.values() if not future.cancelled()])
        self.compiled.clear()
        self.announced.clear()
        self.release()
        trim()


def _kept(weights: int) -> int:
    """Return how many compiled models are kept, each with weights of so many bytes."""
    return min(_MOST, max(_LEAST, _WEIGHTS // max(weights, 1)))


def output_bytes(compiled: Any) -> int:
    """Return the bytes of a compiled model's outputs, which have static shapes."""
    return sum(map(_bytes, compiled.outputs))


def weight_bytes(model: Any) -> int:
    """Return the bytes of a model's constants, including those in the bodies of loops."""
    total = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant":
            total += _bytes(node.output(0))
        elif node.get_type_name() == "Loop":
            total += weight_bytes(node.get_function())
    return total


def _bytes(port: Any) -> int:
    size: int = math.prod(port.get_shape()) * port.get_element_type().size
    return size


def sentence(error: Exception, folder: Path | None = None) -> str:
    """Return an error as one line without folders of this server or source files."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = " ".join((lines or [type(error).__name__])[-1].split())
    text = text if folder is None else text.replace(f"{folder}/", "")
    return "OpenVINO: " + re.sub(r"(?<!\w)/\S*/", "", text)
