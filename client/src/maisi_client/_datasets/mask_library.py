"""Search a library of masks with a description like `candidate_masks.json` of upstream."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._errors import InvalidRequest, first_line
from .._grid import Spacing, parse_spacing
from .._validation import excerpt
from .value_parsers import integer

# convert_body_region in scripts/find_masks.py of NV-Generate-CTMR.
REGIONS = {"head": 0, "chest": 1, "thorax": 1, "abdomen": 2, "pelvis": 3, "lower": 3}
TUMOURS = frozenset({23, 24, 26, 27, 128})
_LONGEST = 2**31 - 1  # most voxels of a side
_GROWTH = 128  # a side may be enlarged by fewer voxels than this, as in find_closest_masks


@dataclass(frozen=True)
class Candidate:
    """A mask of a library: its file, `size` in voxels, `spacing` in mm, and label ids."""

    path: Path
    size: tuple[int, int, int]
    spacing: Spacing
    labels: frozenset[int]


def find_masks(
    database: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    labels: Sequence[int] = (),
    regions: Sequence[str] = (),
    size: Sequence[int] | None = None,
    spacing: float | Sequence[float] | None = None,
) -> list[Candidate]:
    """Return the masks that have all `labels` and span all `regions`, nearest grid first.

    `database` is a JSON file like upstream's `candidate_masks.json`: a list of entries with
    `pseudo_label_filename` (relative to `folder`), `dim`, `spacing`, `label_list`, and optionally
    `top_region_index` and `bottom_region_index`. A mask with a tumour that is not in `labels` is
    left out, as in find_masks of scripts/find_masks.py. With `size` and `spacing` (mm), the order
    is that of find_closest_masks in scripts/sample.py, and a mask is left out if a side would have
    to be enlarged by 128 voxels or more.

    Raises `InvalidRequest` if the file is not such a list or a region is unknown.
    """
    for region in regions:
        if region not in REGIONS:
            raise InvalidRequest(f"region is '{region}'; allowed are {', '.join(REGIONS)}")
    if size is not None and len(size) != 3:
        raise InvalidRequest(f"size is {list(size)}; three whole numbers are expected")
    required, to = frozenset(labels), None if spacing is None else parse_spacing(spacing)
    candidates = []
    for number, entry in enumerate(_entries(database)):
        try:
            candidate = Candidate(
                Path(folder) / entry["pseudo_label_filename"],
                _sides(entry["dim"]),
                parse_spacing(entry["spacing"]),
                _labels(entry["label_list"]),
            )
            spans = _spans(entry, regions)
        except KeyError as error:
            raise InvalidRequest(f"entry {number} of '{database}' has no {error}") from error
        except (InvalidRequest, TypeError, ValueError) as error:
            why = first_line(error)
            raise InvalidRequest(f"entry {number} of '{database}' is not a mask: {why}") from error
        if not spans or not required <= candidate.labels or candidate.labels & TUMOURS - required:
            continue
        if size is not None and any(
            side <= target - _GROWTH for side, target in zip(candidate.size, size, strict=True)
        ):
            continue
        candidates.append(candidate)
    return sorted(candidates, key=lambda candidate: _distance(candidate, size, to))


def _entries(database: str | os.PathLike[str]) -> list[Mapping[str, Any]]:
    try:
        entries = json.loads(Path(database).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        why = first_line(error)
        raise InvalidRequest(f"database '{database}' cannot be read: {why}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidRequest(f"database '{database}' is not a list of masks")
    return entries


def _sides(values: Any) -> tuple[int, int, int]:
    try:
        x, y, z = map(integer, values)
        if all(0 < side <= _LONGEST for side in (x, y, z)):
            return x, y, z
    except (TypeError, ValueError):
        pass
    raise InvalidRequest(f"dim is {excerpt(values)}; three sides of 1 to {_LONGEST} are expected")


def _labels(values: Any) -> frozenset[int]:
    try:
        return frozenset(map(integer, values))
    except (TypeError, ValueError):
        raise InvalidRequest(
            f"label_list is {excerpt(values)}; whole numbers are expected"
        ) from None


def _spans(entry: Mapping[str, Any], regions: Sequence[str]) -> bool:
    """Return whether a mask's regions include all of `regions`; True if the entry has none."""
    if "top_region_index" not in entry:
        return True
    top, bottom = (
        [bool(one) for one in entry[f"{end}_region_index"]].index(True) for end in ("top", "bottom")
    )
    return all(top <= REGIONS[region] <= bottom for region in regions)


def _distance(candidate: Candidate, size: Sequence[int] | None, spacing: Spacing | None) -> float:
    """Return how much a mask's grid differs from the request; the field of view counts most."""
    sides, lengths = size or candidate.size, spacing or candidate.spacing
    total = 0.0
    for axis in range(3):
        side, mm = candidate.size[axis], abs(candidate.spacing[axis])
        total += abs(side * mm - sides[axis] * lengths[axis]) / 10
        total += abs(side - sides[axis]) / 100 + abs(mm - lengths[axis])
    return total
