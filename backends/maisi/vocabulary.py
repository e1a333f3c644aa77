"""Translate masks from other label vocabularies to MAISI's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from .errors import InvalidRequest
from .inputs import Array, Inputs, Variant, join, quote, text

OWN = "maisi"


def id_mapping(variant: Variant, inputs: Inputs) -> npt.NDArray[np.uint8] | None:
    """Return MAISI's id [256] for every id of the vocabulary in `inputs`.

    The variant's `vocabularies` map names to lists of MAISI's ids, one for each id. An id that is
    not in the vocabulary gets 0, like the background. The result is None if the ids are MAISI's
    already. Raises InvalidRequest for an unknown name.
    """
    name = text(inputs, "vocabulary") if "vocabulary" in inputs else OWN
    if name == OWN:
        return None
    vocabularies: Mapping[str, Sequence[int]] = variant.get("vocabularies", {})
    if name not in vocabularies:
        raise InvalidRequest(
            f"vocabulary: {quote(name)} is not one of {join([OWN, *vocabularies])}"
        )
    ids = vocabularies[name]
    mapping = np.zeros(256, np.uint8)
    mapping[: len(ids)] = ids
    return mapping


def remap(mask: Array, mapping: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return `mask` [X, Y, Z], uint8, in MAISI's ids by an `id_mapping`.

    Raises InvalidRequest for ids that are not in the vocabulary.
    """
    present = np.zeros(256, bool)
    remapped = np.empty(mask.shape, np.uint8)
    for plane, out in zip(mask, remapped, strict=True):  # an index takes eight bytes a voxel
        present[plane] = True
        np.take(mapping, plane, out=out)
    present[0] = False
    if (present & (mapping == 0)).any():
        unknown, allowed = np.flatnonzero(present & (mapping == 0)), np.flatnonzero(mapping)
        raise InvalidRequest(
            f"mask: holds {join(unknown)}, and the ids of its vocabulary are {join([0, *allowed])}"
        )
    return remapped
