"""What the ensemble and the stream both do to a request before and after the networks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from . import anatomy, conditioning, masks, source
from .inputs import Array, Inputs, Variant
from .request import Plan, complete, labels, regions
from .rows import first_row
from .sampler import RunModel


def plan_request(variant: Variant, inputs: Inputs) -> tuple[Plan, Inputs]:
    """Return what is to be made, and the inputs with the mask in MAISI's ids."""
    translated = masks.translate(variant, inputs)
    return complete(variant, translated), translated


def prepare_mask(
    variant: Variant,
    plan: Plan,
    translated: Inputs,
    run_model: RunModel,
    after: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Plan, Array | None]:
    """Return the plan and the mask [X, Y, Z] of the request, or of its anatomy.

    `after` hears of each step of the networks that make a mask (steps done, steps in all).
    """
    if plan.anatomy is None:
        return plan, masks.complete(variant, plan, translated)
    mask = masks.generate(variant, plan, run_model, after)
    top, bottom = regions(variant, translated, labels(variant, mask), ())
    return dataclasses.replace(plan, top_region=top, bottom_region=bottom), mask


def encode_source(
    variant: Variant, plan: Plan, inputs: Inputs, run_model: RunModel
) -> Array | None:
    """Return the latent of the source, where there is one."""
    return source.encode(variant, plan, inputs["source"], run_model) if plan.sourced else None


def encode_mask(ids: Any, run_model: RunModel) -> Any:
    """Return the ControlNet's embedding of the labels `ids` [R, X, Y, Z]."""
    (embedding,) = run_model("mask_encoder", {"labels": ids}, ["embedding"])
    return embedding


def initial_latent(
    variant: Variant,
    plan: Plan,
    source_latent: Array | None,
    latent: Array | None,
    attempt: int = 0,
) -> Array:
    """Return the latent [1, C, x, y, z] that an attempt starts from; `latent`: the request's."""
    noise = conditioning.noise(variant, plan, latent, attempt)
    return noise if source_latent is None else source.noised(variant, plan, source_latent, noise)


def returned_mask(plan: Plan, mask: Array | None) -> npt.NDArray[np.uint8]:
    """Return the mask to give back; one voxel of background where there is none."""
    if mask is None:
        return np.zeros((1, 1, 1), np.uint8)
    return mask if plan.organs is None else anatomy.only(mask, plan.organs)


def first_row_of(name: str, value: Any) -> Any:
    """Return the first row of an array or of a tensor of Triton, without a copy."""
    if isinstance(value, np.ndarray):
        return value[:1]
    take = functools.partial(type(value).from_dlpack, name)
    return first_row(value.to_dlpack(), take)


def as_text(text: str) -> npt.NDArray[np.uint8]:
    """Return a text as outputs hold it: its UTF-8 bytes, uint8 [N]."""
    return np.frombuffer(text.encode(), np.uint8)
