"""Decode the latent to the volume."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

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
