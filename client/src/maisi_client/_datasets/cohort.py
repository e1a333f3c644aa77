"""Plans with a cohort's contrasts, planes, fields of view and spacings, from metadata alone.

The metadata are the tables `metadata/batchXX_metadata.csv` of MR-RATE,
https://huggingface.co/datasets/Forithmus/MR-RATE. Each row is a series. The guide
`data-preprocessing/docs/dataset_guide.md` of https://github.com/forithmus/MR-RATE describes the
columns:

- `classified_modality`: T1w, T2w, FLAIR, SWI or MRA;
- `acquisition_plane`: AXIAL, CORONAL, SAGITTAL or OBLIQUE;
- `array_shape`: voxels along the axes of the file, such as `[256, 256, 192]`;
- `array_spacing_mm`: mm along the axes of the file, such as `[1.0, 1.0, 1.0]`.

The column `array_fov_mm`, the product of the last two, is not read.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .._errors import InvalidRequest, printable
from .._validation import excerpt
from .._variant import Variant
from .planning import check, deal, largest_remainder, numbered_rows, shuffled
from .row import Row
from .table import read_table

# From README.md of the dataset: its `license` and its terms of access.
MR_RATE_LICENSE = (
    "CC-BY-NC-SA-4.0, drawn from the metadata of MR-RATE"
    " (https://huggingface.co/datasets/Forithmus/MR-RATE): research and education alone, no"
    " commerce, name the source, share alike, identify nobody, pass no part of the dataset on"
)

_MODALITIES = {
    "T1w": "mri_t1",
    "T2w": "mri_t2",
    "FLAIR": "mri_flair",
    "SWI": "mri_swi",
    "MRA": "mri_mra",
}
_COLUMNS = ("classified_modality", "acquisition_plane", "array_shape", "array_spacing_mm")

# For each plane: the axis (right, anterior, superior) that is normal to its slices, and, for a file
# whose slices are stacked along its third axis, the file's axes that point right, anterior and
# superior. In such a file, the first two axes are right and anterior in the axial plane, right and
# superior in the coronal plane, and anterior and superior in the sagittal plane:
# https://github.com/rordenlab/dcm2niix/issues/117.
_PLANES = {
    "AXIAL": (2, (0, 1, 2)),
    "CORONAL": (1, (0, 2, 1)),
    "SAGITTAL": (0, (2, 0, 1)),
}
_LEAST, _MOST = 1e-3, 1e5  # limits of the voxels and the mm of a scan
_ISOTROPIC = 1.05  # a series is isotropic up to this ratio of the largest to the smallest spacing

_Grid: TypeAlias = tuple[tuple[int, ...], tuple[float, ...]]  # voxels and mm, [X, Y, Z]


@dataclass(frozen=True)
class Cohort:
    """The rows of a plan, and the number of series that were left out, by reason."""

    rows: list[Row]
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class _Series:
    """A row of a table; shape in voxels and spacing in mm along right, anterior, superior."""

    modality: str
    plane: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]


def plan_like(
    tables: Sequence[str | os.PathLike[str]],
    variant: Variant,
    count: int,
    *,
    seed: int = 0,
    **same: Any,
) -> Cohort:
    """Return a plan of `count` volumes with the distribution of the series in MR-RATE's tables.

    Each pair of contrast and plane has the same share of the plan as of the tables, to within one
    row. Its rows are drawn in turn from the pair's series in random order. Shape and spacing are
    drawn together, so the plan keeps their joint distribution. Each row keeps the field of view of
    its series. Its sides are the nearest ones that `variant` allows, and its spacing follows from
    both. A series is left out and counted if the variant lacks its contrast, its plane is oblique,
    or no grid of the variant has its field of view. `same` are arguments of `Client.generate` that
    all rows have.

    Every row has MR-RATE's licence. Raises `InvalidRequest` for a table without the columns, for a
    value that cannot be read, and if no series can be planned.
    """
    check(count, seed)
    strata: dict[tuple[str, str], list[_Grid]] = {}
    left_out: Counter[str] = Counter()
    for series in (series for table in tables for series in _read(table)):
        modality = _MODALITIES.get(series.modality, "")
        if modality not in variant.modalities:
            left_out[f"contrast '{series.modality}', which '{variant.name}' lacks"] += 1
        elif series.plane not in _PLANES:
            left_out[f"plane '{series.plane}', which is none of {', '.join(_PLANES)}"] += 1
        elif (grid := _fit(series, variant)) is None:
            left_out[f"a field of view that no grid of '{variant.name}' has"] += 1
        else:
            strata.setdefault((modality, series.plane), []).append(grid)
    if not strata:
        why = "; ".join(f"{times} have {reason}" for reason, times in left_out.items())
        names = ", ".join(f"'{os.fspath(table)}'" for table in tables)
        raise InvalidRequest(f"no series of {names} can be planned: {why or 'there is none'}")
    generator = random.Random(seed)
    ordered = dict(sorted(strata.items()))
    counts = largest_remainder({key: len(grids) for key, grids in ordered.items()}, count)
    shared = {**same, "variant": variant.name}
    all_arguments = [
        {**shared, "modality": modality, "size": size, "spacing": spacing}
        for (modality, plane), grids in ordered.items()
        for size, spacing in deal(grids, counts[modality, plane], generator)
    ]
    return Cohort(
        numbered_rows(shuffled(all_arguments, generator), seed, MR_RATE_LICENSE), dict(left_out)
    )


def _read(table: str | os.PathLike[str]) -> Iterator[_Series]:
    name = os.fspath(table)
    for line, cells in read_table(table, "metadata table", _COLUMNS):
        where = f"table '{name}', line {line}"
        shape = _three(where, "array_shape", cells["array_shape"])
        spacing = _three(where, "array_spacing_mm", cells["array_spacing_mm"])
        plane = cells["acquisition_plane"]
        order = _ras_order(plane, spacing)
        yield _Series(
            printable(cells["classified_modality"], 60),
            printable(plane, 60),
            tuple(round(shape[axis]) for axis in order),
            tuple(spacing[axis] for axis in order),
        )


def _three(where: str, column: str, text: str) -> list[float]:
    try:
        x, y, z = (float(value) for value in json.loads(text))
        if all(_LEAST <= value <= _MOST for value in (x, y, z)):
            return [x, y, z]
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass
    raise InvalidRequest(
        f"{where}: {column} is {excerpt(text)}; three numbers above 0 are expected, as in"
        " [256, 256, 192]"
    )


def _ras_order(plane: str, spacing: Sequence[float]) -> tuple[int, ...]:
    """Return the axes of the file that point right, anterior and superior.

    The tables have the axes as stored, although the column was once named `ras_array_shape`
    (`load_image_properties` in modality_filtering.py of MR-RATE does not reorient). dcm2niix wrote
    the files, without options. It reorients a 3D acquisition to right, anterior, superior. In any
    other file the slices stay along the third axis
    (https://github.com/rordenlab/dcm2niix/issues/438, and 117). The spacing shows which case
    applies: slices are along the third axis if only its spacing differs from the others and the
    plane's normal is another axis. An isotropic series is a 3D acquisition.
    """
    normal, stacked = _PLANES.get(plane, _PLANES["AXIAL"])
    x, y, z = spacing
    differences = {2: abs(math.log(x / y)), 1: abs(math.log(x / z)), 0: abs(math.log(y / z))}
    odd_axis = min(differences, key=lambda axis: differences[axis])
    anisotropic = max(spacing) / min(spacing) > _ISOTROPIC
    return stacked if anisotropic and odd_axis == 2 and normal != 2 else (0, 1, 2)


def _fit(series: _Series, variant: Variant) -> _Grid | None:
    """Return a grid of the variant with the field of view of a series; None if there is none.

    Each side is the multiple nearest to that of the series within the limits of size and spacing.
    While the grid has too many voxels, the side with the finest spacing is shortened.
    """
    step, fine, coarse = variant.size["multiple"], variant.spacing["min"], variant.spacing["max"]
    view = [side * mm for side, mm in zip(series.shape, series.spacing, strict=True)]
    least, sides = [], []
    for axis in range(3):
        # The margin allows for the rounding of the table's spacings to float32.
        low = max(variant.size["min"][axis], view[axis] / coarse[axis] - 1e-3)
        high = min(variant.size["max"][axis], view[axis] / fine[axis] + 1e-3)
        lowest, highest = step * math.ceil(low / step), step * math.floor(high / step)
        if lowest > highest:
            return None
        nearest = step * math.floor(series.shape[axis] / step + 0.5)
        least.append(lowest)
        sides.append(min(max(nearest, lowest), highest))
    while math.prod(sides) > variant.size["max_voxels"]:
        shrinkable = [axis for axis in range(3) if sides[axis] > least[axis]]
        if not shrinkable:
            return None
        sides[min(shrinkable, key=lambda axis: view[axis] / sides[axis])] -= step
    lengths = [
        min(max(round(view[axis] / sides[axis], 5), fine[axis]), coarse[axis]) for axis in range(3)
    ]
    return tuple(sides), tuple(lengths)
