"""Convert arguments to the tensors of a request."""

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
    RasImage,
    Spacing,
    parse_spacing,
    present_ids,
    resample_linear,
    resample_nearest,
    resampled_shape,
    same_grid,
)
from ._mask import load_greys, load_mask
from ._tracing import traceparent

_log = logging.getLogger("maisi_client")


@dataclass(frozen=True)
class Request:
    """The tensors `inputs` for a variant, and the grid of the answer.

    `variant` is None for the server's only variant. `mask` and `arguments` are the caller's;
    `arguments` include a seed. The answer gets the grid of `reference`, which is the mask (its
    values are `labels`) or else the `source`. `named` is True if the ids come from the names of
    labels instead of the file. `warnings` are about reading and resampling. `traceparent` is the
    header of that name.
    """

    variant: str | None
    inputs: Mapping[str, NDArray[Any]]
    mask: Picture | None
    arguments: Mapping[str, Any]
    reference: RasImage | None
    source: RasImage | None
    spacing: Spacing | None
    labels: NDArray[np.uint8] | None
    named: bool
    warnings: tuple[str, ...]
    traceparent: str | None = None


def prepare(mask: Picture | None, arguments: Mapping[str, Any], **flags: bool) -> Request:
    """Return the request for arguments, with all pictures resampled to one grid.

    `flags` are inputs that are not arguments: `check` and `mask_only`. Raises `InvalidRequest` for
    an invalid value, and TypeError for an unknown argument.
    """
    arguments = complete(arguments)
    header = traceparent(arguments.pop("traceparent", None))
    source, spacing = arguments.get("source"), arguments.get("spacing")
    labels = None if mask is None else load_mask(mask, arguments.get("vocabulary"))
    greys = None if source is None else load_greys(source)
    if labels is not None and greys is not None and not same_grid(labels, greys):
        raise InvalidRequest("the source is on another grid than the mask; resample one of them")
    reference = labels or greys
    mask_vocabulary = labels and labels.image.extra.get("vocabulary")
    if mask_vocabulary and arguments.get("vocabulary") not in (None, mask_vocabulary):
        raise InvalidRequest(
            f"vocabulary is '{arguments['vocabulary']}'; the mask's codes are read as"
            f" {mask_vocabulary}'s ids"
        )
    lengths = None if spacing is None else parse_spacing(spacing)
    if reference is not None:
        lengths = lengths or reference.spacing
    inputs = tensors({**arguments, **flags})
    if lengths is not None:
        with np.errstate(over="ignore"):
            inputs["spacing"] = np.array(lengths, np.float32)
        if labels is not None:
            inputs["mask"] = resample_nearest(labels.values, labels.spacing, lengths)
        if greys is not None:
            # With the mask's spacing, if there is one: it differs by no more than rounding.
            assert reference is not None
            sides = resampled_shape(greys.values.shape, reference.spacing, lengths, itemsize=4)
            inputs["source"] = resample_linear(greys.values, reference.spacing, sides, lengths)
    warnings = () if labels is None else labels.warnings
    if labels is not None:
        warnings += _lost_labels(labels, inputs["mask"], lengths)
    if flags.get("mask_only"):  # its answer has no report
        for warning in warnings:
            _log.warning("%s", warning)
    return Request(
        variant=arguments.get("variant"),
        inputs=inputs,
        mask=mask,
        arguments=arguments,
        reference=reference,
        source=greys,
        spacing=lengths,
        labels=None if labels is None else labels.values,
        named=labels is not None and labels.named,
        warnings=warnings,
        traceparent=header,
    )


def _lost_labels(
    labels: RasImage, resampled: NDArray[np.uint8], spacing: Spacing | None
) -> tuple[str, ...]:
    """Return a warning if labels are too small to remain in a mask at another spacing."""
    if spacing is None or spacing == labels.spacing:
        return ()
    if not (lost_ids := sorted({*present_ids(labels.values)} - {*present_ids(resampled)})):
        return ()
    return (
        f"labels {', '.join(map(str, lost_ids))} of the mask are too small to be in it at spacing"
        f" {list(spacing)} mm; the volume does not show them",
    )


def size_of(inputs: Mapping[str, NDArray[Any]]) -> tuple[int, ...] | None:
    """Return the voxels `[X, Y, Z]` that the tensors request; None for those of a preset."""
    for name in ("mask", "source"):
        if name in inputs:
            return inputs[name].shape
    return tuple(map(int, inputs["size"])) if "size" in inputs else None
