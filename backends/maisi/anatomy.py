"""What a caller asks a generated mask to hold: the sizes of ten anatomies, and what to keep.

Names, their order and what is allowed are those of prepare_anatomy_size_condition in
scripts/sample.py and of check_input_ct in scripts/sample_mask.py of
github.com/NVIDIA-Medtech/NV-Generate-CTMR at commit da438fe.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from .errors import InvalidRequest
from .inputs import Array, Inputs, Variant, join, quote, text

ORGANS = ("gallbladder", "liver", "stomach", "pancreas", "colon")

# Tumour -> its label id; ldm_conditional_sample_one_mask in scripts/sample_mask.py.
TUMOURS = {
    "lung tumor": 23,
    "pancreatic tumor": 24,
    "hepatic tumor": 26,
    "colon cancer primaries": 27,
    "bone lesion": 128,
}

NAMES = (*ORGANS, *TUMOURS)

ABSENT = -1.0

# Sizes that nobody gave, where the variant has no table to look them up in: of our own choosing,
# organs in the middle of what is allowed and no tumour.
DEFAULT = (0.5,) * len(ORGANS) + (ABSENT,) * len(TUMOURS)


def parse(variant: Variant, inputs: Inputs) -> tuple[float, ...] | None:
    """Return the ten sizes that `anatomy` asks for, in the order of NAMES; None without it.

    `anatomy` is a text such as `liver=0.5, hepatic tumor=0.3`; a size is 0 to 1, in no unit, or -1
    for what is to be absent. Sizes not given are completed from `anatomy_sizes` of the variant, if
    it has them. Raises InvalidRequest.
    """
    if "anatomy" not in inputs:
        return None
    said = text(inputs, "anatomy", limit=500)
    if not said.strip():
        raise InvalidRequest(f"anatomy: empty, but name=size is needed, names being {join(NAMES)}")
    asked: dict[str, float] = {}
    for part in said.split(","):
        name, equals, written = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise InvalidRequest(
                f"anatomy: {quote(part.strip())} is not name=size, such as liver=0.5"
            )
        if name not in NAMES:
            raise InvalidRequest(f"anatomy: {quote(name)} is not one of {join(NAMES)}")
        if name in asked:
            raise InvalidRequest(f"anatomy: {name} is given twice, and once is allowed")
        asked[name] = _size(name, written)
    tumours = [name for name in asked if name in TUMOURS]
    if len(tumours) > 1:
        raise InvalidRequest(
            f"anatomy: {join(tumours)} are {len(tumours)} tumours, and at most one is allowed"
        )
    return complete(asked, variant.get("anatomy_sizes", ()))


def complete(asked: Mapping[str, float], table: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return ten sizes: those `asked`, name -> size, and the others from a row of `table`.

    That is the first of the rows nearest to what was asked, by the sum of absolute differences, as
    prepare_anatomy_size_condition in scripts/sample.py; DEFAULT where there are no rows.
    """

    def distance(row: Sequence[float]) -> float:
        sizes = zip(NAMES, row, strict=True)
        return sum(abs(asked[name] - size) for name, size in sizes if name in asked)

    row = min(table, key=distance, default=DEFAULT)
    return tuple(float(asked.get(name, size)) for name, size in zip(NAMES, row, strict=True))


def tumour(sizes: Sequence[float]) -> int | None:
    """Return the label id of the tumour in ten sizes; None where all five are absent.

    A row of a table may hold a second one: the last counts, as in ldm_conditional_sample_one_mask
    in scripts/sample_mask.py.
    """
    found = None
    for label, size in zip(TUMOURS.values(), sizes[len(ORGANS) :], strict=True):
        if size != ABSENT:
            found = label
    return found


def keep(variant: Variant, inputs: Inputs) -> tuple[int, ...] | None:
    """Return the ids of the labels that `organs` names, in its order; None without it: all.

    `organs` is a text such as `liver, spleen, 14`, of names and ids of the variant's labels. Raises
    InvalidRequest.
    """
    if "organs" not in inputs:
        return None
    known = {name: int(label) for label, name in variant["labels"].items()}
    ids = []
    for part in text(inputs, "organs", limit=4000).split(","):
        name = part.strip()
        if name in variant["labels"]:
            ids.append(int(name))
        elif name in known:
            ids.append(known[name])
        else:
            close = difflib.get_close_matches(name, known, cutoff=0)
            raise InvalidRequest(
                f"organs: {quote(name)} is neither name nor id of a label of {variant['name']}; "
                f"the closest names are {join(close)}"
            )
    return tuple(dict.fromkeys(ids))


def only(mask: Array, ids: Collection[int]) -> npt.NDArray[np.uint8]:
    """Return `mask` [X, Y, Z] with 0 for every label that is not in `ids`.

    Labels keep their ids; filter_mask_with_organs in scripts/sample_mask.py numbers them anew, by
    their place in the list.
    """
    kept = np.zeros(256, np.uint8)
    kept[list(ids)] = list(ids)
    out = np.empty(mask.shape, np.uint8)
    for labels, plane in zip(mask, out, strict=True):  # one at a time: take uses 8 bytes a voxel
        np.take(kept, labels, out=plane)
    return out


def _size(name: str, written: str) -> float:
    try:
        size = float(written)
    except ValueError:
        size = float("nan")
    # Written so that NaN fails.
    if not (0 <= size <= 1 or size == ABSENT):
        raise InvalidRequest(
            f"anatomy: {name} of size {quote(written)} is not what is allowed, 0 to 1, "
            f"or -1 for absent"
        )
    return size
