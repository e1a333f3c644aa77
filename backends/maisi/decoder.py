"""From the latent to the volume."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InvalidRequest
from .inputs import Array, Variant
from .request import Plan
from .sampler import RunModel

NOT_FINITE = (
    "image: the networks gave NaN or infinite values; "
    "a smaller guidance or an ordinary latent avoids that"
)
_PLANES = 16  # converted at a time, so that there are no further copies of a whole volume


def decode(
    variant: Variant, plan: Plan, latent: Any, mask: Array | None, run_model: RunModel
) -> npt.NDArray[np.int16]:
    """Return the volume [X, Y, Z] of `latent`, background where `mask` [X, Y, Z] is 0.

    Raises InvalidRequest when the networks gave values that are not finite.
    """
    return grey_levels(variant, decoded(plan, latent, run_model), mask)


def decoded(plan: Plan, latent: Any, run_model: RunModel) -> Array:
    """Return the decoder's output for `latent`, 0..1 in float32 or float16, cropped [X, Y, Z]."""
    (output,) = run_model("vae_decoder", {"latent": latent}, ["image"])
    x, y, z = plan.size
    return np.from_dlpack(output)[0, 0, :x, :y, :z]


def grey_levels(
    variant: Variant, output: Array, mask: Array | None = None
) -> npt.NDArray[np.int16]:
    """Map the autoencoder's 0..1 onto the variant's grey levels, whole numbers in int16.

    `output` [X, Y, Z] is float32 or float16; the arithmetic is float32. The volume is background
    where `mask` [X, Y, Z] is 0. Raises InvalidRequest for values that are not finite.
    """
    scale = variant["intensity"]
    low, high = scale["min"], scale["max"]
    image = np.empty(output.shape, np.int16)
    for start in range(0, len(output), _PLANES):
        slab = output[start : start + _PLANES].astype(np.float32)
        if not np.isfinite(slab).all():
            raise InvalidRequest(NOT_FINITE)
        np.clip(slab, 0, 1 if scale["clip_above"] else None, out=slab)
        slab *= high - low
        slab += low
        np.rint(slab, out=slab)
        planes = image[start : start + _PLANES]
        planes[...] = np.clip(slab, -32768, 32767)
        if mask is not None:
            np.copyto(planes, np.int16(low), where=mask[start : start + _PLANES] == 0)
    return image
