"""Decode the latent to the volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..engines import grey_levels
from .inputs import Array, Variant
from .request import Plan
from .sampler import RunModel


def decode(
    variant: Variant, plan: Plan, latent: Any, mask: Array | None, run_model: RunModel
) -> npt.NDArray[np.int16]:
    """Return the volume [X, Y, Z] of `latent`, with background where `mask` [X, Y, Z] is 0.

    Raises InvalidRequest if the output of the networks is not finite.
    """
    return with_background(variant, decoded(plan, latent, run_model), mask)


def decoded(plan: Plan, latent: Any, run_model: RunModel) -> npt.NDArray[np.int16]:
    """Return the grey levels [X, Y, Z] of `latent`, cropped to the plan's size."""
    (output,) = run_model("vae_decoder", {"latent": latent}, ["image"])
    x, y, z = plan.size
    levels: npt.NDArray[np.int16] = np.from_dlpack(output)[0, 0, :x, :y, :z]
    return levels


def with_background(
    variant: Variant, levels: npt.NDArray[np.int16], mask: Array | None
) -> npt.NDArray[np.int16]:
    """Return `levels` [X, Y, Z], contiguous, background where `mask` [X, Y, Z] is 0."""
    if mask is None:
        return np.ascontiguousarray(levels)
    return np.where(mask == 0, np.int16(variant["intensity"]["min"]), levels)


def in_grey_levels(variant: Variant, run_model: RunModel) -> RunModel:
    """Return `run_model` with grey levels [1, 1, X, Y, Z] from the VAE decoder, as it is served.

    The VAE decoder of `run_model` returns 0..1.
    """

    def run(model: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        tensors = run_model(model, inputs, outputs)
        if model != "vae_decoder":
            return tensors
        (decoded,) = tensors
        levels = np.empty(decoded.shape, np.int16)
        grey_levels.convert(variant["intensity"], decoded[0, 0], levels[0, 0])
        return [levels]

    return run
