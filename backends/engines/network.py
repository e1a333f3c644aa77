"""A Triton model that runs one network, only for the stages of its variant.

`python -m export` writes the version folder of a model. It has `model.onnx`, or `model.plan` with
its description `model.plan.json`, or the file in default_model_filename. A plan for one type of
GPU, such as `model_sm89.plan`, is preferred. `choice.py` selects the engine. Parameters in
config.pbtxt:

    engine                  onnxruntime or openvino-bfloat16, see `choice.py`; absent: `choice.py`
                            decides
    thread_count            threads on a CPU; absent: every core that this process may use
    runtime_cache           TensorRT-RTX: folder of the kernels compiled for this GPU, for the next
                            start; absent: maisi-triton in $XDG_CACHE_HOME or ~/.cache; empty:
                            kernels are not saved
    FORCE_CPU_ONLY_INPUT_TENSORS   a parameter of Triton; "no": tensors stay on the GPU; otherwise
                            Triton copies them to the CPU, and this backend copies them back
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from . import choice, cuda, guard, onnx_runtime, openvino, tensorrt
from .choice import Choice
from .memory import trim, twice

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Network:
    """The functions of a network, which depend on its engine.

    `run` maps inputs by name and the names of outputs to the outputs by name, which are valid until
    the next run. `release` frees the memory that runs of one size reuse. `forget` frees all memory
    except that of the network itself. Both receive the inputs of any run. `end` saves compiled
    kernels. `prepare` begins to compile for a later run with inputs of these shapes, by name; None
    for an engine that takes any shape.
    """

    run: Callable[[Arrays, Sequence[str]], Arrays]
    release: Callable[[Arrays], None]
    forget: Callable[[Arrays], None]
    end: Callable[[], None]
    prepare: Callable[[Mapping[str, tuple[int, ...]]], None] | None = None


class TritonPythonModel:
    """One instance of one network."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the network on the instance's device.

        Raises TritonModelException with one sentence if the model cannot be loaded.
        """
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"], args["model_version"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        filename = config.get("default_model_filename") or "model.onnx"
        try:
            self.contract = guard.contract(config)
            selected = choice.choose(folder, choice.gpu_of(args), parameters)
            self.network = load(selected, folder, filename, parameters)
        except Exception as error:
            raise pb_utils.TritonModelException(
                f"{args['model_name']}: {choice.sentence(error, folder)}"
            ) from None
        self.sides: dict[str, tuple[int, ...]] = {}
        self.engine_metric = choice.publish(pb_utils, args["model_name"], selected)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request separately; a failed request gets a TritonError."""
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        """Run the network on one request; on a GPU, outputs stay there."""
        names = list(request.requested_output_names())
        try:
            guard.check_caller(self.contract, request)
            if (shapes := guard.later_shapes(self.contract, request)) is not None:
                if self.network.prepare is None:
                    raise guard.Refused(guard.ANY_SHAPE)
                self.network.prepare(shapes)
                return pb_utils.InferenceResponse([])
            arrays = {tensor.name(): self.array(tensor) for tensor in request.inputs()}
            guard.check_inputs(self.contract, arrays)
            self.release_after_another_size(arrays)
            outputs = twice(
                lambda: self.network.run(arrays, names), lambda: self.network.forget(arrays)
            )
            tensors = [to_triton(name, outputs[name]) for name in names]
        except Exception as error:
            codes = pb_utils.TritonError
            return pb_utils.InferenceResponse(
                error=codes(choice.sentence(error), guard.status(codes, error))
            )
        return pb_utils.InferenceResponse(tensors)

    def release_after_another_size(self, arrays: Arrays) -> None:
        """Free memory of runs of another size, because other models on the device may need it.

        The number of rows may change within a request; see `guidance_interval`.
        """
        sides = {name: tuple(array.shape[2:]) for name, array in arrays.items()}
        if self.sides and sides != self.sides:
            self.network.release(arrays)
        self.sides = sides

    def array(self, tensor: Any) -> Any:
        """Return Triton's tensor as a CuPy array if it is on the GPU, else as a numpy array."""
        return tensor.as_numpy() if tensor.is_cpu() else tensorrt.cupy().from_dlpack(tensor)

    def finalize(self) -> None:
        """Save compiled kernels, and free the memory."""
        self.network.end()
        del self.network


def to_triton(name: str, array: Any) -> Any:
    """Return an array of numpy or CuPy as Triton's tensor, on the GPU if models can share it."""
    if not isinstance(array, np.ndarray):
        array = cuda.to_share(array)
    if isinstance(array, np.ndarray):  # Triton copies it regardless of strides
        return pb_utils.Tensor(name, np.ascontiguousarray(array))
    return pb_utils.Tensor.from_dlpack(name, array)


def load(selected: Choice, folder: Path, filename: str, parameters: Mapping[str, str]) -> Network:
    """Return the network in `filename` of `folder`, or in the plan of that name, on its engine.

    Raises ValueError, RuntimeError or an error of ONNX Runtime if it does not load.
    """
    path = folder / filename
    if selected.engine == choice.TENSORRT:
        name = path.with_suffix(".plan").name
        plan = tensorrt.Engine(folder, name, selected.gpu or 0, tensorrt.cache_folder(parameters))
        cuda.expect_driver_library()
        return Network(
            lambda arrays, names: plan.run(arrays),
            lambda arrays: plan.forget(),
            lambda arrays: plan.forget(),
            plan.save_kernels,
        )
    threads = choice.threads(parameters)
    if selected.engine == choice.ONNX_RUNTIME:
        return of_onnx_runtime(path, selected.gpu, threads)
    is_bfloat16 = selected.engine == choice.OPENVINO_BFLOAT16
    return of_openvino(openvino.Engine(path, threads, bfloat16=is_bfloat16))


def of_onnx_runtime(path: Path, gpu: int | None, threads: int) -> Network:
    """Return the network in the file at `path` on ONNX Runtime."""
    if gpu is not None:
        cuda.expect_driver_library()
    device = onnx_runtime.cpu(threads) if gpu is None else onnx_runtime.gpu(gpu)
    engine = onnx_runtime.Engine(path, device)

    def forget(arrays: Arrays) -> None:
        engine.shrink(arrays)
        trim()

    return Network(engine.run, engine.shrink, forget, lambda: None)


def of_openvino(engine: openvino.Engine) -> Network:
    """Return the network of an engine of OpenVINO."""

    def run(arrays: Arrays, names: Sequence[str]) -> Arrays:
        outputs = engine(arrays)
        return {name: outputs[name].copy() for name in names}  # the next run overwrites them

    def release(arrays: Arrays) -> None:
        engine.release()
        trim()

    return Network(run, release, lambda arrays: engine.forget(), lambda: None, engine.prepare)
