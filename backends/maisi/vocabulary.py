"""Masks in another label vocabulary than MAISI's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from .errors import InvalidRequest
from .inputs import Array, Inputs, Variant, join, quote, text

OWN = "maisi"


def table(variant: Variant, inputs: Inputs) -> npt.NDArray[np.uint8] | None:
    """Return MAISI's id [256] for every id of the vocabulary that `inputs` names.

    The variant's `vocabularies` are name -> MAISI's id of every id. An id that the vocabulary does
    not know gets 0, as background does. None where the mask's ids are MAISI's already. Raises
    InvalidRequest for a name there is not.
    """
    name = text(inputs, "vocabulary") if "vocabulary" in inputs else OWN
    if name == OWN:
        return None
    known: Mapping[str, Sequence[int]] = variant.get("vocabularies", {})
    if name not in known:
        raise InvalidRequest(f"vocabulary: {quote(name)} is not one of {join([OWN, *known])}")
    made = np.zeros(256, np.uint8)
    made[: len(known[name])] = known[name]
    return made


def remap(mask: Array, table: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return `mask` [X, Y, Z], uint8, in MAISI's ids by a `table` of this module.

    Raises InvalidRequest for ids that the vocabulary does not know.
    """
    seen = np.zeros(256, bool)
    own = np.empty(mask.shape, np.uint8)
    for plane, mapped in zip(mask, own, strict=True):  # an index takes eight bytes a voxel
        seen[plane] = True
        np.take(table, plane, out=mapped)
    seen[0] = False
    if (seen & (table == 0)).any():
        unknown, allowed = np.flatnonzero(seen & (table == 0)), np.flatnonzero(table)
        raise InvalidRequest(
            f"mask: holds {join(unknown)}, and the ids of its vocabulary are {join([0, *allowed])}"
        )
    return own
