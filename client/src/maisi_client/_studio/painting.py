"""Masks that were painted in the page."""

from __future__ import annotations

import nibabel as nib
import numpy as np

from .._errors import MaskError
from .._grid import present_ids
from .._variant import Variant
from .pictures import Picture, Pictures, save_mask


def paint(pictures: Pictures, parent: Picture, voxels: bytes, variant: Variant) -> Picture:
    """Return a new mask on the grid of `parent`; `voxels` are uint8 in Fortran order.

    Raises `MaskError` for an id that neither the variant nor the parent has.
    """
    labels = np.frombuffer(voxels, np.uint8).reshape(parent.shape, order="F")
    allowed = {*variant.labels, *(label["id"] for label in parent.labels)}
    if foreign := [id_ for id_ in present_ids(labels) if id_ not in allowed]:
        ids = ", ".join(map(str, foreign[:5]))
        raise MaskError(f"the painted mask has label {ids}, which {variant.name} does not have")
    original = nib.load(pictures.path(parent))
    image = nib.Nifti1Image(np.asfortranarray(labels), original.affine, original.header)
    name = pictures.reserve(f"{parent.name}-painted")
    title = f"{parent.title}, painted"
    return save_mask(pictures.folder, image, name, title, vocabulary=parent.vocabulary)
