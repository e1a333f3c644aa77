"""The inputs `anatomy`, sizes for a generated mask, and `organs`, the labels to keep.

The sizes of a variant are in its table `mask_generation.sizes`, in the order of the mask network's
input. The completion of sizes and the choice of the tumour are those of
github.com/NVIDIA-Medtech/NV-Generate-CTMR at commit da438fe.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from .errors import InvalidRequest
from .inputs import Array, Inputs, Variant, join, quote, text

ABSENT = -1.0


def names(variant: Variant) -> list[str]:
    """Return the names of the variant's sizes, in the order of the mask network's input."""
    return [entry["name"] for entry in variant["mask_generation"]["sizes"]]


def parse(variant: Variant, inputs: Inputs) -> tuple[float, ...] | None:
    """Return the sizes of the input `anatomy`, in the order of `names`; None without it.

    `anatomy` is a text such as `liver=0.5, hepatic tumor=0.3`. A size is 0 to 1, without a unit, or
    -1 for absent. `complete_sizes` adds the other sizes. Raises InvalidRequest.
    """
    if "anatomy" not in inputs:
        return None
    allowed = names(variant)
    value = text(inputs, "anatomy", limit=500)
    if not value.strip():
        raise InvalidRequest(
            f"anatomy: empty, but name=size is needed, names being {join(allowed)}"
        )
    explicit: dict[str, float] = {}
    for part in value.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if not equals:
            (close,) = difflib.get_close_matches(name, allowed, n=1, cutoff=0)
            raise InvalidRequest(
                f"anatomy: {quote(part.strip())} is not name=size, such as {close}=0.5"
            )
        if name not in allowed:
            raise InvalidRequest(f"anatomy: {quote(name)} is not one of {join(allowed)}")
        if name in explicit:
            raise InvalidRequest(f"anatomy: {name} is given twice, and once is allowed")
        explicit[name] = _size(name, number)
    tumours = [name for name in _tumours(variant) if explicit.get(name, ABSENT) != ABSENT]
    if len(tumours) > 1:
        raise InvalidRequest(
            f"anatomy: {join(tumours)} are {len(tumours)} tumours, and at most one is allowed"
        )
    return complete_sizes(variant, explicit)


def complete_sizes(variant: Variant, explicit: Mapping[str, float]) -> tuple[float, ...]:
    """Return all sizes in the order of `names`; `explicit` has some of them by name.

    The other sizes come from the row of the variant's table `anatomy_sizes` that is nearest to
    `explicit` by the sum of absolute differences (the first such row), as in
    prepare_anatomy_size_condition of scripts/sample.py. Without a table they are the variant's
    defaults. If `explicit` has a tumour, there is no other: upstream keeps those of the row, and
    then may remove the requested one.
    """
    allowed = names(variant)

    def distance(row: Sequence[float]) -> float:
        sizes = zip(allowed, row, strict=True)
        return sum(abs(explicit[name] - size) for name, size in sizes if name in explicit)

    defaults = [entry["default"] for entry in variant["mask_generation"]["sizes"]]
    row = min(variant.get("anatomy_sizes", ()), key=distance, default=defaults)
    sizes = {**dict(zip(allowed, row, strict=True)), **explicit}
    if any(explicit.get(name, ABSENT) != ABSENT for name in _tumours(variant)):
        sizes |= {name: ABSENT for name in _tumours(variant) if name not in explicit}
    return tuple(float(size) for size in sizes.values())


def _tumours(variant: Variant) -> list[str]:
    """Return the names of the sizes of tumours."""
    entries = variant["mask_generation"]["sizes"]
    return [entry["name"] for entry in entries if entry.get("tumour")]


def lesions(variant: Variant, sizes: Sequence[float]) -> tuple[int, ...]:
    """Return the label ids of the lesions in `sizes` that are not absent.

    A row of a table may have several tumours. Only the last one counts, as in
    ldm_conditional_sample_one_mask of scripts/sample_mask.py.
    """
    entries = zip(variant["mask_generation"]["sizes"], sizes, strict=True)
    present = [entry for entry, size in entries if "label" in entry and size != ABSENT]
    tumours = [entry for entry in present if entry.get("tumour")]
    return tuple(entry["label"] for entry in present if entry not in tumours[:-1])


def volumes(variant: Variant, sizes: Sequence[float]) -> dict[str, float]:
    """Return name -> volume in ml of those of `sizes` whose entries have a `volume`.

    Between the two volumes of its entry, the size of a lesion is linear in the third root of the
    volume, and that of an organ in the volume. Absent sizes have no volume.
    """
    present = lesions(variant, sizes)
    result = {}
    for entry, size in zip(variant["mask_generation"]["sizes"], sizes, strict=True):
        is_organ = "labels" in entry and size != ABSENT
        if "volume" in entry and (is_organ or entry.get("label") in present):
            degree = 1 if is_organ else 3
            low, high = (volume ** (1 / degree) for volume in entry["volume"])
            result[entry["name"]] = float((low + size * (high - low)) ** degree)
    return result


def parse_organs(variant: Variant, inputs: Inputs) -> tuple[int, ...] | None:
    """Return the label ids of the input `organs`, in the same order; None without it.

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
                f"organs: {quote(name)} is neither the name nor the id of a label of "
                f"{variant['name']}; the closest names are {join(close)}"
            )
    return tuple(dict.fromkeys(ids))


def select_labels(mask: Array, ids: Collection[int]) -> npt.NDArray[np.uint8]:
    """Return `mask` [X, Y, Z] with 0 for every label that is not in `ids`.

    Labels keep their ids, whereas filter_mask_with_organs in scripts/sample_mask.py replaces them
    by their index in the list.
    """
    table = np.zeros(256, np.uint8)
    table[list(ids)] = list(ids)
    out = np.empty(mask.shape, np.uint8)
    for labels, plane in zip(
        mask, out, strict=True
    ):  # one plane at a time, because `take` uses 8 bytes per voxel
        np.take(table, labels, out=plane)
    return out


def _size(name: str, number: str) -> float:
    try:
        size = float(number)
    except ValueError:
        size = float("nan")
    # The condition is negated, so that NaN is refused.
    if not (0 <= size <= 1 or size == ABSENT):
        raise InvalidRequest(
            f"anatomy: {name} has the size {quote(number)}, but allowed are 0 to 1, "
            f"or -1 for absent"
        )
    return size
