"""From arguments to the tensors of a request."""

from __future__ import annotations

import logging
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
    present_ids,
    resample_linear,
    resample_nearest,
    resampled,
    same_grid,
)
from ._mask import load_greys, load_mask

_log = logging.getLogger("maisi_client")


@dataclass(frozen=True)
class Request:
    """What to send to which variant, and what the answer is placed on.

    `variant` is None where the server's only one is meant.
    `mask` and `arguments` are those that were given, the seed completed. `held` is the picture that
    came: the mask, whose values are `labels`, or else the `source`. `named`: its labels' names
    made the ids, which are not those of its file. `warnings` are of how it was read and resampled.
    """

    variant: str | None
    inputs: Mapping[str, NDArray[Any]]
    mask: Picture | None
    arguments: Mapping[str, Any]
    held: Held | None
    source: Held | None
    spacing: Spacing | None
    labels: NDArray[np.uint8] | None
    named: bool
    warnings: tuple[str, ...]


def prepare(mask: Picture | None, arguments: Mapping[str, Any], **flags: bool) -> Request:
    """Read the pictures, put them on one grid, and turn what is asked to tensors.

    `flags` are inputs that no caller names: `check`, `mask_only`. Raises `InvalidRequest` for what
    cannot be sent, TypeError for an argument that is none.
    """
    asked = complete(arguments)
    source, spacing = asked.get("source"), asked.get("spacing")
    labels = None if mask is None else load_mask(mask, asked.get("vocabulary"))
    greys = None if source is None else load_greys(source)
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
        with np.errstate(over="ignore"):
            inputs["spacing"] = np.array(used, np.float32)
        if labels is not None:
            inputs["mask"] = resample_nearest(labels.values, labels.spacing, used)
        if greys is not None:
            # On the mask's grid, if there is one: its spacing is the same but for rounding.
            assert held is not None
            sides = resampled(greys.values.shape, held.spacing, used, itemsize=4)
            inputs["source"] = resample_linear(greys.values, held.spacing, sides, used)
    warnings = () if labels is None else labels.warnings
    if labels is not None:
        warnings += _lost(labels, inputs["mask"], used)
    if flags.get("mask_only"):  # its answer has no report
        for warning in warnings:
            _log.warning("%s", warning)
    return Request(
        variant=asked.get("variant"),
        inputs=inputs,
        mask=mask,
        arguments=asked,
        held=held,
        source=greys,
        spacing=used,
        labels=None if labels is None else labels.values,
        named=labels is not None and labels.named,
        warnings=warnings,
    )


def _lost(labels: Held, sent: NDArray[np.uint8], spacing: Spacing | None) -> tuple[str, ...]:
    """Return a warning where labels are too small to be in a mask at another spacing."""
    if spacing is None or spacing == labels.spacing:
        return ()
    if not (lost := sorted({*present_ids(labels.values)} - {*present_ids(sent)})):
        return ()
    return (
        f"labels {', '.join(map(str, lost))} of the mask are too small to be in it at spacing"
        f" {list(spacing)} mm; the volume does not show them",
    )


def size_of(inputs: Mapping[str, NDArray[Any]]) -> tuple[int, ...] | None:
    """Return the voxels `[X, Y, Z]` that the tensors ask for; None: those of a preset."""
    for name in ("mask", "source"):
        if name in inputs:
            return inputs[name].shape
    return tuple(map(int, inputs["size"])) if "size" in inputs else None
