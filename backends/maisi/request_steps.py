"""The steps of a request that the ensemble and the stream share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from . import anatomy, conditioning, masks, sampler, source
from .inputs import Array, Inputs, Variant
from .request import Plan, complete, label_ids, regions
from .sampler import RunModel


def plan_request(variant: Variant, inputs: Inputs) -> tuple[Plan, Inputs]:
    """Return the plan of a request, and its inputs with the mask in MAISI's ids.

    Raises InvalidRequest.
    """
    translated = masks.translate(variant, inputs)
    return complete(variant, translated), translated


def networks(variant: Variant, plan: Plan) -> list[tuple[str, int]]:
    """Return (network, rows) of a volume's calls, in their order and without repetitions."""
    rows = dict.fromkeys(sampler.rows_of_calls(variant, plan))
    return [
        *([("vae_encoder", 1)] if plan.sourced else []),
        *([("mask_encoder", plan.rows)] if plan.masked else []),
        *((sampler.network(plan), count) for count in rows),
        ("vae_decoder", 1),
    ]


def prepare_mask(
    variant: Variant,
    plan: Plan,
    translated: Inputs,
    run_model: RunModel,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Plan, Array | None]:
    """Return the plan and the mask [X, Y, Z]: the request's, or one generated for its anatomy.

    A generated mask completes the plan's regions. `on_step(done, total)` is called after each step
    of the mask network.
    """
    if plan.anatomy is None:
        return plan, masks.add_body_and_augment(variant, plan, translated)
    mask = masks.generate(variant, plan, run_model, on_step)
    top, bottom = regions(variant, translated, label_ids(variant, mask), ())
    return dataclasses.replace(plan, top_region=top, bottom_region=bottom), mask


def encode_source(
    variant: Variant, plan: Plan, inputs: Inputs, run_model: RunModel
) -> Array | None:
    """Return the latent [1, C, x, y, z] of the source; None without a source."""
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
    """Return the initial latent [1, C, x, y, z] of an attempt; `latent` is that of the request."""
    noise = conditioning.noise(variant, plan, latent, attempt)
    return noise if source_latent is None else source.noised(variant, plan, source_latent, noise)


def returned_mask(plan: Plan, mask: Array | None) -> npt.NDArray[np.uint8]:
    """Return the mask of the answer, uint8 [X, Y, Z]; without a mask, one voxel of background."""
    if mask is None:
        return np.zeros((1, 1, 1), np.uint8)
    return mask if plan.organs is None else anatomy.select_labels(mask, plan.organs)


def text_bytes(text: str) -> npt.NDArray[np.uint8]:
    """Return a text in the form of outputs: its UTF-8 bytes, uint8 [N]."""
    return np.frombuffer(text.encode(), np.uint8)
