"""The door: Triton's tensors in and out, roles to rooms, every failure to one sentence.

config.pbtxt gives each model of a variant its `role` (condition, sampler, decoder or stream) and
the JSON `variant` that says what may be asked. `<variant>.stream` walks the same rooms as the
ensemble of the other three, and tells how far it is on the way.
"""

import functools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

if not __package__:  # Triton loads this file by itself; the folder of all backends is a package
    sys.path.append(str(Path(__file__).parents[2]))
    __package__ = "backends.maisi"

from . import conditioning, decoder, sampler
from .inputs import Array, InvalidRequest
from .report import report
from .request import Plan, Variant, check_latent, complete, conditions, parse_plan
from .rows import first_row
from .sampler import Engine

Tensors = dict[str, Any]

# How much of a whole request has passed when each stage begins; the sampler fills its own part.
_BEGINS = {"condition": 0.0, "mask_encoder": 0.02, "sampler": 0.05, "decoder": 0.85, "done": 1.0}


class Cancelled(Exception):
    """The caller no longer wants the answer."""


class EngineFailed(Exception):
    """A model of the variant answered with an error; `code` is Triton's."""

    def __init__(self, message: str, code: int) -> None:
        """Keep Triton's code beside the sentence for the caller."""
        super().__init__(message)
        self.code = code


class TritonPythonModel:
    """One model of a variant, whose role decides which room it is."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the role and the variant.

        Raises TritonModelException for a role that is not known or a variant that is no JSON.
        """
        parameters = json.loads(args["model_config"])["parameters"]
        try:
            self.role = parameters["role"]["string_value"]
            self.variant: Variant = json.loads(parameters["variant"]["string_value"])
        except (KeyError, ValueError) as error:
            raise pb_utils.TritonModelException(
                f"{args['model_name']}: parameters `role` and `variant` (JSON) are needed"
            ) from error
        if self.role not in (*_ROOMS, "stream"):
            raise pb_utils.TritonModelException(
                f"{args['model_name']}: role {self.role!r} is not one of "
                f"{', '.join(_ROOMS)}, stream"
            )

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Answer each request; a stream answers through its own sender."""
        if self.role == "stream":
            for request in requests:
                self._stream(request)
            return None
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            outputs = _ROOMS[self.role](self.variant, _inputs(request), self._engine)
            return pb_utils.InferenceResponse([_tensor(*item) for item in outputs.items()])
        except Exception as error:
            return pb_utils.InferenceResponse(error=self._error(error))

    def _stream(self, request: Any) -> None:
        sender = request.get_response_sender()

        def send(stage: str, progress: float, **outputs: Any) -> None:
            if request.is_cancelled():
                raise Cancelled
            outputs = {
                "stage": _text(stage),
                "progress": np.array([progress], np.float32),
            } | outputs
            sender.send(pb_utils.InferenceResponse([_tensor(*item) for item in outputs.items()]))

        try:
            _walk(self.variant, _inputs(request), self._engine, send)
        except Exception as error:
            # In one message: a lone end after an error can crash Triton 2.51 (triton_grpc_error).
            sender.send(
                pb_utils.InferenceResponse(error=self._error(error)),
                flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
            )
        else:
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _engine(self, model: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        """Call a model of this variant within the server.

        What it gives stays where it is, on a GPU perhaps, for the next model; but for images, which
        are read here.
        """
        place = (
            {"preferred_memory": pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)}
            if "image" in outputs
            else {}
        )
        response = pb_utils.InferenceRequest(
            model_name=f"{self.variant['name']}.{model}",
            requested_output_names=list(outputs),
            inputs=[_tensor(*item) for item in inputs.items()],
            **place,
        ).exec()
        if response.has_error():
            error = response.error()
            pb_utils.Logger.log_error(f"{self.role}: {model}: {error.message()}")
            raise EngineFailed(
                f"{self.role}: the model {model} failed; the server's log says why", error.code()
            )
        return [pb_utils.get_output_tensor_by_name(response, name) for name in outputs]

    def _error(self, error: Exception) -> Any:
        if isinstance(error, InvalidRequest):
            return pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
        if isinstance(error, Cancelled):
            return pb_utils.TritonError("the caller cancelled", pb_utils.TritonError.CANCELLED)
        if isinstance(error, EngineFailed):
            return pb_utils.TritonError(str(error), error.code)
        pb_utils.Logger.log_error(f"{self.role}: {type(error).__name__}: {error}")
        return pb_utils.TritonError(
            f"{self.role}: failed with {type(error).__name__}; the server's log says more",
            pb_utils.TritonError.INTERNAL,
        )


def _condition(variant: Variant, inputs: Tensors, engine: Engine) -> Tensors:
    """Run the first room: check, complete, and prepare what the networks take."""
    started = time.monotonic()
    given = {name: tensor.as_numpy() for name, tensor in inputs.items()}
    plan = complete(variant, given)
    outputs = {
        "noise": conditioning.noise(variant, plan, given.get("latent")),
        **conditioning.tensors(variant, plan, given.get("mask")),
    }
    took = {"started": started, "condition_seconds": time.monotonic() - started}
    return {**outputs, "plan": _text(plan.to_json(**took))}


def _sampler(variant: Variant, inputs: Tensors, engine: Engine) -> Tensors:
    """Run the loop."""
    started = time.monotonic()
    plan = parse_plan(variant, inputs["plan"].as_numpy())
    check_latent(variant, plan, "noise", inputs["noise"].as_numpy())
    names = [*_rows(variant), *(["embedding"] if plan.masked else [])]
    conditions = {name: inputs[name] for name in names}
    latent = sampler.sample(
        variant, plan, inputs["noise"], conditions, engine, first_row=_first_row
    )
    sampled = json.dumps({"seconds": time.monotonic() - started, "steps": plan.steps})
    return {"latent": latent, "sampled": _text(sampled)}


def _decoder(variant: Variant, inputs: Tensors, engine: Engine) -> Tensors:
    """Run the last room of the ensemble."""
    started = time.monotonic()
    plan = parse_plan(variant, inputs["plan"].as_numpy())
    latent, mask = inputs["latent"].as_numpy(), None
    if latent.shape != plan.latent_shape(variant):
        raise InvalidRequest(f"latent: shape {list(latent.shape)} does not fit the plan")
    if plan.masked:
        labels = inputs["labels"].as_numpy()
        if labels.shape != (plan.rows, *plan.padded_size):
            raise InvalidRequest(f"labels: shape {list(labels.shape)} does not fit the plan")
        mask = _crop(plan, labels)
    image = decoder.decode(variant, plan, inputs["latent"], mask, engine)
    seconds = {
        "condition": plan.condition_seconds,
        "sampler": _seconds(inputs["sampled"].as_numpy()),
        "decoder": time.monotonic() - started,
        "total": time.monotonic() - plan.started,
    }
    return {"image": image, "report": _text(report(variant, plan, seconds, image, mask))}


def _walk(variant: Variant, inputs: Tensors, engine: Engine, send: Callable[..., None]) -> None:
    """Walk all rooms; `send(stage, progress, **outputs)` raises when the caller has gone."""
    started = time.monotonic()
    seconds: dict[str, float] = {}

    def begin(stage: str) -> None:
        send(stage, _BEGINS[stage])
        seconds[stage] = -time.monotonic()

    def end(stage: str) -> None:
        seconds[stage] += time.monotonic()

    begin("condition")
    made = _condition(variant, inputs, engine)
    plan = parse_plan(variant, made["plan"])
    end("condition")

    steered = {name: made[name] for name in _rows(variant)}
    if plan.masked:
        begin("mask_encoder")
        (steered["embedding"],) = engine("mask_encoder", {"labels": made["labels"]}, ["embedding"])
        end("mask_encoder")

    begin("sampler")
    share = _BEGINS["decoder"] - _BEGINS["sampler"]
    latent = sampler.sample(
        variant,
        plan,
        made["noise"],
        steered,
        engine,
        lambda done, total: send("sampler", _BEGINS["sampler"] + share * done / total),
        _first_row,
    )
    end("sampler")

    begin("decoder")
    mask = _crop(plan, made["labels"]) if plan.masked else None
    image = decoder.decode(variant, plan, latent, mask, engine)
    end("decoder")
    seconds["total"] = time.monotonic() - started
    summary = report(variant, plan, seconds, image, mask)
    send("done", _BEGINS["done"], image=image, report=_text(summary))


_ROOMS: dict[str, Callable[[Variant, Tensors, Engine], Tensors]] = {
    "condition": _condition,
    "sampler": _sampler,
    "decoder": _decoder,
}


def _rows(variant: Variant) -> list[str]:
    """Name what the flow takes of the condition model's tensors."""
    return [name for name in conditions(variant) if name != "labels"]


def _inputs(request: Any) -> Tensors:
    return {tensor.name(): tensor for tensor in request.inputs()}


def _tensor(name: str, value: Any) -> Any:
    """Name a value for Triton: an array, or a tensor, which is not copied.

    A tensor that has the name goes as it is: Triton puts it into shared memory once for all calls.
    """
    if isinstance(value, np.ndarray):
        return pb_utils.Tensor(name, np.ascontiguousarray(value))
    if value.name() == name:
        return value
    return pb_utils.Tensor.from_dlpack(name, value.to_dlpack())


def _first_row(name: str, value: Any) -> Any:
    """Return the first row of an array or of a tensor, without a copy."""
    if isinstance(value, np.ndarray):
        return value[:1]
    take = functools.partial(pb_utils.Tensor.from_dlpack, name)
    return first_row(value.to_dlpack(), take)


def _text(text: str) -> Array:
    return np.array([text.encode()], dtype=object)


def _crop(plan: Plan, labels: Array) -> Array:
    x, y, z = plan.size
    return labels[0, :x, :y, :z]


def _seconds(sampled: Array) -> float:
    try:
        return float(json.loads(sampled[0])["seconds"])
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        raise InvalidRequest("sampled: not what the sampler model writes") from None
