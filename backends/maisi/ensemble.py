"""The three stages of the ensemble: condition, sampler and decoder. Each is a model of Triton.

Their requests wait in Triton's queues. If a queue is full (max_queue_size in config.pbtxt), Triton
refuses requests.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from . import conditioning, decoder, fidelity, request_steps, sampler, tracing
from .dlpack import first_row
from .errors import InvalidRequest
from .inputs import Array, Variant, read_text
from .report import report
from .request import (
    Plan,
    check_labels,
    check_latent,
    label_ids,
    parse_plan,
    signed,
    takes_mask,
)
from .sampler import RunModel

Tensors = dict[str, Any]


def condition_stage(variant: Variant, inputs: Tensors, run_model: RunModel) -> Tensors:
    """Return the tensors noise, labels and plan of a request, after checking and completing it."""
    started = time.monotonic()
    seconds: dict[str, float] = {}
    with _stage("condition", seconds):
        arrays = {name: tensor.as_numpy() for name, tensor in inputs.items()}
        plan, translated = request_steps.plan_request(variant, arrays)
        plan, mask = request_steps.prepare_mask(variant, plan, translated, run_model)
        labels = takes_mask(variant)
        ids = {"labels": conditioning.label_rows(variant, plan, mask)} if labels else {}
        source_latent = request_steps.encode_source(variant, plan, arrays, run_model)
        noise = request_steps.initial_latent(variant, plan, source_latent, arrays.get("latent"))
    times = {"started": started, "condition_seconds": seconds["condition"]}
    return {"noise": noise, **ids, "plan": request_steps.text_bytes(signed(plan, **times))}


def sampler_stage(variant: Variant, inputs: Tensors, run_model: RunModel) -> Tensors:
    """Return the tensors latent and sampled, after encoding the mask and sampling."""
    plan = parse_plan(variant, inputs["plan"].as_numpy())
    check_latent(variant, plan, "noise", inputs["noise"].as_numpy())
    conditions: Tensors = conditioning.condition_rows(variant, plan)
    seconds: dict[str, float] = {}
    if plan.masked:
        with _stage("mask_encoder", seconds):
            check_labels(plan, inputs["labels"].as_numpy())
            conditions["embedding"] = request_steps.encode_mask(inputs["labels"], run_model)
    with _stage("sampler", seconds):
        latent = sampler.sample(
            variant,
            plan,
            inputs["noise"],
            conditions,
            run_model,
            first_row=first_row,
        )
    return {"latent": latent, "sampled": request_steps.text_bytes(json.dumps({"seconds": seconds}))}


def decoder_stage(variant: Variant, inputs: Tensors, run_model: RunModel) -> Tensors:
    """Return the tensors image, report and used_mask, after decoding the latent."""
    decoding: dict[str, float] = {}
    with _stage("decoder", decoding):
        plan = parse_plan(variant, inputs["plan"].as_numpy())
        check_latent(variant, plan, "latent", inputs["latent"].as_numpy())
        mask = None
        if plan.masked:
            check_labels(plan, inputs["labels"].as_numpy())
            mask = _crop(plan, inputs["labels"].as_numpy())
            label_ids(variant, mask)
        image = decoder.decode(variant, plan, inputs["latent"], mask, run_model)
        attempts = [] if mask is None else [fidelity.measure(variant, image, mask)]
    seconds = {
        "condition": plan.condition_seconds,
        **_seconds(inputs["sampled"].as_numpy()),
        **decoding,
        "total": time.monotonic() - plan.started,
    }
    summary = report(variant, plan, seconds, image, mask, attempts)
    mask_outputs = (
        {"used_mask": request_steps.returned_mask(plan, mask)} if takes_mask(variant) else {}
    )
    return {"image": image, "report": request_steps.text_bytes(summary), **mask_outputs}


STAGES: dict[str, Callable[[Variant, Tensors, RunModel], Tensors]] = {
    "condition": condition_stage,
    "sampler": sampler_stage,
    "decoder": decoder_stage,
}


@contextmanager
def _stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Trace the block, and store its duration in `seconds`."""
    started = time.monotonic()
    with tracing.span(name):
        yield
    seconds[name] = time.monotonic() - started


def _crop(plan: Plan, ids: Array) -> Array:
    x, y, z = plan.size
    return ids[0, :x, :y, :z]


def _seconds(sampled: Array) -> dict[str, float]:
    """Return the seconds of the sampler's stages; raises InvalidRequest for a damaged tensor."""
    try:
        seconds = json.loads(read_text("sampled", sampled, 1000))["seconds"]
        stages = {"sampler": float(seconds["sampler"])}
        if "mask_encoder" in seconds:
            stages = {"mask_encoder": float(seconds["mask_encoder"]), **stages}
        if not all(0 <= value < math.inf for value in stages.values()):  # NaN also fails
            raise ValueError
        return stages
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise InvalidRequest("sampled: this is not an output of the sampler model") from None
