"""The inputs `anatomy`, ten sizes for a generated mask, and `organs`, the labels to keep.

The names, their order and the ranges are those of prepare_anatomy_size_condition in
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

# Sizes that the request lacks, where the variant has no table of them. Our choice: organs in the
# middle of the range and no tumour.
DEFAULT = (0.5,) * len(ORGANS) + (ABSENT,) * len(TUMOURS)


def parse(variant: Variant, inputs: Inputs) -> tuple[float, ...] | None:
    """Return the ten sizes of the input `anatomy`, in the order of NAMES; None without it.

    `anatomy` is a text such as `liver=0.5, hepatic tumor=0.3`; a size is 0 to 1, without a unit, or
    -1 for absent. Other sizes come from `anatomy_sizes` of the variant, see `complete_sizes`.
    Raises InvalidRequest.
    """
    if "anatomy" not in inputs:
        return None
    value = text(inputs, "anatomy", limit=500)
    if not value.strip():
        raise InvalidRequest(f"anatomy: empty, but name=size is needed, names being {join(NAMES)}")
    explicit: dict[str, float] = {}
    for part in value.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise InvalidRequest(
                f"anatomy: {quote(part.strip())} is not name=size, such as liver=0.5"
            )
        if name not in NAMES:
            raise InvalidRequest(f"anatomy: {quote(name)} is not one of {join(NAMES)}")
        if name in explicit:
            raise InvalidRequest(f"anatomy: {name} is given twice, and once is allowed")
        explicit[name] = _size(name, number)
    tumours = [name for name in explicit if name in TUMOURS]
    if len(tumours) > 1:
        raise InvalidRequest(
            f"anatomy: {join(tumours)} are {len(tumours)} tumours, and at most one is allowed"
        )
    return complete_sizes(explicit, variant.get("anatomy_sizes", ()))


def complete_sizes(
    explicit: Mapping[str, float], table: Sequence[Sequence[float]]
) -> tuple[float, ...]:
    """Return ten sizes: `explicit`, name -> size, and the others from a row of `table`.

    That is the first of the rows nearest to those, by the sum of absolute differences, as
    prepare_anatomy_size_condition in scripts/sample.py; DEFAULT where there are no rows.
    """

    def distance(row: Sequence[float]) -> float:
        sizes = zip(NAMES, row, strict=True)
        return sum(abs(explicit[name] - size) for name, size in sizes if name in explicit)

    row = min(table, key=distance, default=DEFAULT)
    return tuple(float(explicit.get(name, size)) for name, size in zip(NAMES, row, strict=True))


def tumour(sizes: Sequence[float]) -> int | None:
    """Return the label id of the tumour in ten sizes; None where all five are absent.

    A row of a table may hold a second one: the last counts, as in ldm_conditional_sample_one_mask
    in scripts/sample_mask.py.
    """
    last = None
    for label, size in zip(TUMOURS.values(), sizes[len(ORGANS) :], strict=True):
        if size != ABSENT:
            last = label
    return last


def parse_organs(variant: Variant, inputs: Inputs) -> tuple[int, ...] | None:
    """Return the label ids of the input `organs`, in its order; None without it.

    `organs` is a text such as `liver, spleen, 14`, of names and ids of the variant's labels. Raises
    InvalidRequest.
    """
    if "organs" not in inputs:
        return None
    ids_by_name = {name: int(label) for label, name in variant["labels"].items()}
    ids = []
    for part in text(inputs, "organs", limit=4000).split(","):
        name = part.strip()
        if name in variant["labels"]:
            ids.append(int(name))
        elif name in ids_by_name:
            ids.append(ids_by_name[name])
        else:
            close = difflib.get_close_matches(name, ids_by_name, cutoff=0)
            raise InvalidRequest(
                f"organs: {quote(name)} is neither name nor id of a label of {variant['name']}; "
                f"the closest names are {join(close)}"
            )
    return tuple(dict.fromkeys(ids))


def select_labels(mask: Array, ids: Collection[int]) -> npt.NDArray[np.uint8]:
    """Return `mask` [X, Y, Z] with 0 for every label that is not in `ids`.

    Labels keep their ids; filter_mask_with_organs in scripts/sample_mask.py renumbers them by their
    index in the list.
    """
    table = np.zeros(256, np.uint8)
    table[list(ids)] = list(ids)
    out = np.empty(mask.shape, np.uint8)
    for labels, plane in zip(mask, out, strict=True):  # one at a time: take uses 8 bytes a voxel
        np.take(table, labels, out=plane)
    return out


def _size(name: str, number: str) -> float:
    try:
        size = float(number)
    except ValueError:
        size = float("nan")
    # Written so that NaN fails.
    if not (0 <= size <= 1 or size == ABSENT):
        raise InvalidRequest(
            f"anatomy: {name} of size {quote(number)} is not what is allowed, 0 to 1, "
            f"or -1 for absent"
        )
    return size
