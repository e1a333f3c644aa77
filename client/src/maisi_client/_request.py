"""From arguments to the tensors of a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._arguments import Picture, complete, tensors
from ._errors import InvalidRequest
from ._grid import (
    Held,
    Spacing,
    parse_spacing,
    resample_linear,
    resample_nearest,
    resampled,
    same_grid,
)
from ._mask import load_mask, load_source


@dataclass(frozen=True)
class Request:
    """What to send to which variant, and what the answer is placed on.

    `mask` and `arguments` are those that were given, the seed completed. `held` is the picture that
    came: the mask, whose values are `labels`, or else the `source`.
    """

    variant: str
    inputs: Mapping[str, NDArray[Any]]
    mask: Picture | None
    arguments: Mapping[str, Any]
    held: Held | None
    source: Held | None
    spacing: Spacing | None
    labels: NDArray[np.uint8] | None


def prepare(mask: Picture | None, arguments: Mapping[str, Any], **flags: bool) -> Request:
    """Read the pictures, put them on one grid, and turn what is asked to tensors.

    `flags` are inputs that no caller names: `check`, `mask_only`. Raises `InvalidRequest` for what
    cannot be sent, TypeError for an argument that is none.
    """
    asked = complete(arguments)
    source, spacing = asked.get("source"), asked.get("spacing")
    labels = None if mask is None else load_mask(mask)
    greys = None if source is None else load_source(source)
    if labels is not None and greys is not None and not same_grid(labels, greys):
        raise InvalidRequest("the source lies on another grid than the mask; resample one of them")
    held = labels or greys
    known = labels and labels.image.extra.get("vocabulary")
    if known and asked.get("vocabulary") not in (None, known):
        raise InvalidRequest(
            f"vocabulary is '{asked['vocabulary']}'; the mask's codes are read as {known}'s ids"
        )
    used = None if spacing is None else parse_spacing(spacing)
    if held is not None:
        used = used or held.spacing
    inputs = tensors({**asked, **flags})
    if used is not None:
        inputs["spacing"] = np.array(used, np.float32)
        if labels is not None:
            inputs["mask"] = resample_nearest(labels.values, labels.spacing, used)
        if greys is not None:
            sides = resampled(greys.values.shape, greys.spacing, used, itemsize=4)
            inputs["source"] = resample_linear(greys.values, greys.spacing, sides, used)
    values = None if labels is None else labels.values
    return Request(asked["variant"], inputs, mask, asked, held, greys, used, values)


def size_of(inputs: Mapping[str, NDArray[Any]]) -> tuple[int, ...] | None:
    """Return the voxels `[X, Y, Z]` that the tensors ask for; None: those of a preset."""
    for name in ("mask", "source"):
        if name in inputs:
            return inputs[name].shape
    return tuple(map(int, inputs["size"])) if "size" in inputs else None
