"""Image to image: compute the sampler's initial latent from a source volume."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import schedule
from .errors import InvalidRequest
from .inputs import Array, Variant
from .request import Plan
from .sampler import RunModel, calls


def encode(
    variant: Variant, plan: Plan, source: Array, run_model: RunModel
) -> npt.NDArray[np.float32]:
    """Return the latent [1, C, x, y, z] of `source` [X, Y, Z], in the variant's grey levels.

    Raises InvalidRequest if a value is not finite.
    """
    padded = np.zeros((1, 1, *plan.padded_size), np.float32)
    x, y, z = plan.size
    padded[0, 0, :x, :y, :z] = unit(variant, source)
    (latent,) = run_model("vae_encoder", {"image": padded}, ["latent"])
    return np.array(np.from_dlpack(latent), np.float32)


def unit(variant: Variant, source: Array) -> npt.NDArray[np.float32]:
    """Return grey levels mapped to the autoencoder's 0..1.

    The mapping is that of upstream's training data (scripts/transforms.py). CT is clipped at both
    ends of the variant's range. MR is not clipped above. If the variant has a `percentile`, the
    lowest value becomes 0 and this percentile 1. Raises InvalidRequest if a value is not finite.
    """
    if not np.isfinite(source).all():
        raise InvalidRequest("source: holds NaN or infinite values, only finite ones are allowed")
    scale = variant["intensity"]
    low, high = scale["min"], scale["max"]
    if "percentile" in scale:
        low, high = np.percentile(source, [0, scale["percentile"]])
    scaled = (source.astype(np.float32) - np.float32(low)) / np.float32((high - low) or 1)
    return np.clip(scaled, 0, 1 if scale["clip_above"] else None, out=scaled)


def noised(variant: Variant, plan: Plan, latent: Array, noise: Array) -> npt.NDArray[np.float32]:
    """Return `latent` with the amount of `noise` that the first step of the plan expects.

    Both are [1, C, x, y, z]. Without steps, at strength 0, the result is `latent`.
    """
    steps = calls(variant, plan)
    image_weight, noise_weight = (
        schedule.noising_weights(variant["schedule"], steps[0].timestep) if steps else (1, 0)
    )
    return np.float32(image_weight) * latent + np.float32(noise_weight) * noise
