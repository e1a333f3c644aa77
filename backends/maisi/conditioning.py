"""From a plan and a mask to what the networks take."""

import numpy as np
import numpy.typing as npt

from .request import Array, Plan, Variant


def labels(variant: Variant, plan: Plan, mask: Array | None) -> npt.NDArray[np.uint8]:
    """Return the label ids for the mask encoder, [R, X', Y', Z'], padded with background.

    Row 0 is `mask`; under guidance row 1 is the mask with every lesion replaced by the organ it
    sits in. Without a mask, one small empty row, which nothing reads.
    """
    if mask is None:
        side = variant["size"]["multiple"]
        return np.zeros((1, side, side, side), np.uint8)
    rows = np.zeros((plan.rows, *plan.padded_size), np.uint8)
    x, y, z = plan.size
    rows[0, :x, :y, :z] = mask
    if plan.rows == 2:
        healthy = np.arange(256, dtype=np.uint8)
        for lesion, organ in variant["lesions"].items():
            healthy[int(lesion)] = organ
        np.take(healthy, rows[0], out=rows[1])
    return rows


def noise(variant: Variant, plan: Plan, latent: Array | None) -> npt.NDArray[np.float32]:
    """Return the latent to start from, [1, C, x, y, z]: `latent`, or noise drawn from the seed."""
    if latent is not None:
        return np.ascontiguousarray(latent, np.float32)
    generator = np.random.Generator(np.random.Philox(plan.seed))
    return generator.standard_normal(plan.latent_shape(variant), np.float32)


def class_labels(plan: Plan) -> npt.NDArray[np.int64]:
    """Return the modality's code [R]; 0 stands for no modality in the unconditional row."""
    return np.array([plan.class_label, 0][: plan.rows], np.int64)


def spacing_mm100(plan: Plan) -> npt.NDArray[np.float32]:
    """Return the spacing in hundredths of a millimetre, [R, 3]."""
    return np.tile(np.array(plan.spacing, np.float32) * np.float32(100), (plan.rows, 1))
