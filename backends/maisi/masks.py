"""Get the mask from the caller, in any label vocabulary, or from the mask networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import anatomy, envelope, head_cleanup, mask_cleanup, schedule, stopping, vocabulary
from .augmentation import augment
from .conditioning import mask_noise, organs_of_lesions
from .errors import InvalidRequest
from .inputs import Array, Inputs, Variant
from .mask_cleanup import BONE_LESION, LUNG_LOBES
from .request import Plan
from .sampler import RunModel


def translate(variant: Variant, inputs: Inputs) -> Inputs:
    """Return the inputs with the mask in MAISI's ids. Raises InvalidRequest."""
    if "vocabulary" not in inputs:
        return inputs
    mapping = vocabulary.id_mapping(variant, inputs)
    if "mask" not in inputs:
        raise InvalidRequest("vocabulary: needs a mask, whose labels it names")
    if mapping is None:
        return inputs
    return {**inputs, "mask": vocabulary.remap(inputs["mask"], mapping)}


def add_body_and_augment(variant: Variant, plan: Plan, inputs: Inputs) -> Array | None:
    """Return the request's mask [X, Y, Z], with a body and augmented if the plan requires it.

    The body comes from the source image, or is estimated from the labels; see `envelope`. The
    result is None if the request has no mask.
    """
    mask = inputs.get("mask")
    if mask is not None and plan.body_added:
        mask = _with_body(mask, plan, inputs)
    if mask is not None and plan.augmented:
        healthy = organs_of_lesions(variant, mask)
        healthy[BONE_LESION] = envelope.BODY  # as in augmentation_tumor_bone
        mask = augment(mask, healthy, plan.seed)
    return mask


def _with_body(mask: Array, plan: Plan, inputs: Inputs) -> npt.NDArray[np.uint8]:
    if not plan.sourced:
        return envelope.fill(mask, plan.spacing)
    lungs = np.isin(np.arange(256), LUNG_LOBES)
    return envelope.envelope(mask, inputs["source"], any(lungs[plane].any() for plane in mask))


def generate(
    variant: Variant, plan: Plan, run_model: RunModel, on_step: Callable[[int, int], None]
) -> npt.NDArray[np.uint8]:
    """Return a mask [X, Y, Z] of the plan's anatomy, on the plan's grid.

    The method is that of ldm_conditional_sample_one_mask in scripts/sample_mask.py of
    NV-Generate-CTMR, but the latent is decoded as a whole: the variant's schedule samples from
    noise, conditioned on the sizes, and the cleanup follows. The networks were trained for one size
    and spacing, so the mask is resampled from it.
    `on_step(done, total)` is called after each step.
    """
    assert plan.anatomy is not None
    settings = variant["mask_generation"]
    factor = variant["latent"]["factor"]
    shape = (1, variant["latent"]["channels"], *(side // factor for side in settings["size"]))
    solver = "ddpm" if settings["schedule"]["kind"] == "ddpm" else "euler"
    steps = schedule.steps(settings["schedule"], math.prod(shape[2:]), settings["steps"], solver)
    latent: Any = next(noise := mask_noise(plan, shape))
    sizes = np.array([plan.anatomy], np.float32)
    for done, step in enumerate(steps, start=1):
        stopping.check_deadline(plan.seed)
        inputs = {
            "latent": latent,
            "z": next(noise) if step.fresh else latent,
            "coefficients": np.array([step.a, step.b, step.c], np.float32),
            "timestep": np.array([step.timestep], np.float32),
            "anatomy_sizes": sizes,
        }
        (latent,) = run_model("mask_flow", inputs, ["next_latent"])
        on_step(done, len(steps))
    (labels,) = run_model("mask_decoder", {"latent": latent}, ["labels"])
    mask = _clean(variant, np.from_dlpack(labels)[0], plan.anatomy, plan.seed)
    return resample(mask, settings["spacing"], plan.size, plan.spacing)


def _clean(
    variant: Variant, labels: npt.NDArray[np.uint8], sizes: Sequence[float], seed: int
) -> npt.NDArray[np.uint8]:
    """Return `labels` [X, Y, Z] after the variant's cleanup; `sizes` are the requested ones."""
    lesions = anatomy.lesions(variant, sizes)
    if variant["mask_generation"]["cleanup"] == "head":
        volumes = anatomy.volumes(variant, sizes)
        return head_cleanup.clean(variant, labels, lesions, volumes, seed)
    return mask_cleanup.clean(labels, lesions[0] if lesions else None)


def resample(
    mask: npt.NDArray[np.uint8],
    spacing: Sequence[float],
    size: Sequence[int],
    new_spacing: Sequence[float],
) -> npt.NDArray[np.uint8]:
    """Return `mask` of `spacing` mm with `size` voxels of `new_spacing` mm, by nearest neighbour.

    The result is cropped or padded around its middle. The method is that of
    ensure_output_size_and_spacing in scripts/sample.py: MONAI's Spacing, which keeps the centre of
    the first voxel, then its ResizeWithPadOrCrop.
    """
    for axis, (old, side, new) in enumerate(zip(spacing, size, new_spacing, strict=True)):
        count = round((mask.shape[axis] - 1) * old / new + 1)
        nearest = np.rint(np.arange(count) * (new / old)).astype(int)
        start = count // 2 - side // 2 if count > side else -((side - count) // 2)
        index = np.arange(start, start + side)
        source = nearest[np.clip(index, 0, count - 1)]
        mask = np.take(mask, np.clip(source, 0, mask.shape[axis] - 1), axis)
        beyond = (index < 0) | (index >= count)
        mask.swapaxes(0, axis)[beyond] = 0
    return np.ascontiguousarray(mask)
