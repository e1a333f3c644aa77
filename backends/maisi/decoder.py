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
    (decoded,) = run_model("vae_decoder", {"latent": latent}, ["image"])
    x, y, z = plan.size
    image = intensity(variant, np.from_dlpack(decoded)[0, 0, :x, :y, :z])
    if mask is not None:
        image[mask == 0] = variant["intensity"]["min"]
    return image


def intensity(variant: Variant, decoded: Array) -> npt.NDArray[np.int16]:
    """Map the autoencoder's 0..1 onto the variant's grey levels, whole numbers in int16.

    `decoded` is float32 or float16; the arithmetic is float32.
    """
    scale = variant["intensity"]
    low, high = scale["min"], scale["max"]
    image = np.empty(decoded.shape, np.int16)
    for start in range(0, len(decoded), _PLANES):
        slab = decoded[start : start + _PLANES].astype(np.float32)
        if not np.isfinite(slab).all():
            raise InvalidRequest(NOT_FINITE)
        np.clip(slab, 0, 1 if scale["clip_above"] else None, out=slab)
        slab *= high - low
        slab += low
        np.rint(slab, out=slab)
        image[start : start + _PLANES] = np.clip(slab, -32768, 32767)
    return image
