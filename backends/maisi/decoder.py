"""From the latent to the volume."""

from typing import Any

import numpy as np
import numpy.typing as npt

from .request import Array, InvalidRequest, Plan, Variant
from .sampler import Engine


def decode(
    variant: Variant, plan: Plan, latent: Any, mask: Array | None, engine: Engine
) -> npt.NDArray[np.int16]:
    """Return the volume [X, Y, Z] of `latent`, background where `mask` [X, Y, Z] is 0.

    Raises InvalidRequest when the networks gave numbers that are no image.
    """
    (decoded,) = engine("vae_decoder", {"latent": latent}, ["image"])
    x, y, z = plan.size
    image = intensity(variant, np.from_dlpack(decoded)[0, 0, :x, :y, :z])
    if mask is not None:
        image[mask == 0] = variant["intensity"]["min"]
    return image


def intensity(variant: Variant, decoded: Array) -> npt.NDArray[np.int16]:
    """Map the autoencoder's 0..1 onto the variant's grey levels, whole numbers in int16."""
    scale = variant["intensity"]
    low, high = scale["min"], scale["max"]
    if not np.isfinite(decoded).all():
        raise InvalidRequest(
            "image: the networks gave NaN or infinite values; "
            "a smaller guidance or an ordinary latent avoids that"
        )
    image = np.clip(decoded, 0, 1 if scale["clip_above"] else None)
    image *= high - low
    image += low
    np.rint(image, out=image)
    return np.clip(image, -32768, 32767).astype(np.int16)
