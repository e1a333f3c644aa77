"""Random plans with shares of modalities and with masks that are used equally often."""

from __future__ import annotations

import itertools
import math
import os
import random
from collections.abc import Hashable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from .._errors import InvalidRequest
from .groups import assign_groups
from .row import Row

_Item = TypeVar("_Item")
_Name = TypeVar("_Name", bound=Hashable)

# Row R of a plan has the seed `seed` * 2^32 + R, so plans with different seeds share no seed.
_SEEDS = 2**32


def make_plan(
    count: int,
    *,
    modalities: Mapping[str, float] | None = None,
    masks: Sequence[str | os.PathLike[str]] = (),
    augment: bool = False,
    seed: int = 0,
    **same: Any,
) -> list[Row]:
    """Return `count` rows, in random order; the same arguments give the same rows.

    `modalities` maps names to shares with any sum, such as `{"mri_t1": 0.5, "mri_flair": 0.5}`. The
    number of rows of each modality is exact to within one row. `masks` are label masks, or folders
    of masks; subfolders are not searched. Each mask is used equally often to within one row,
    overall and in each modality. `augment` changes the mask a little for each row. `same` are
    arguments of `Client.generate` that all rows have. The rows are named `case_0000`, `case_0001`
    and so on, and the seed of row R is `seed` * 2^32 + R. Rows with the same mask have the same
    `group`. Without masks, each row has its own group.

    Raises `InvalidRequest` for a share that is not above 0, for missing masks, and for arguments
    that contradict each other.
    """
    check(count, seed)
    files = label_masks(masks)
    size_arguments = [name for name in ("size", "preset") if same.get(name) is not None]
    if files and size_arguments:
        raise InvalidRequest(
            f"{size_arguments[0]} cannot be combined with masks, which have their own size"
        )
    if augment and not files:
        raise InvalidRequest("augment needs masks to change")
    generator = random.Random(seed)
    all_arguments: list[dict[str, Any]] = [dict(same) for _ in range(count)]
    if modalities:
        counts = largest_remainder(modalities, count)
        contrasts = [name for name, times in counts.items() for _ in range(times)]
        for arguments, modality in zip(all_arguments, contrasts, strict=True):
            arguments["modality"] = modality
    if files:
        for arguments, mask in zip(all_arguments, deal(files, count, generator), strict=True):
            arguments.update({"mask": mask} | ({"augment": True} if augment else {}))
    return numbered_rows(shuffled(all_arguments, generator), seed)


def label_masks(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return the NIfTI files among `paths` and in the folders among `paths`, in order.

    Raises `InvalidRequest` for any other path, and for a folder without NIfTI files.
    """
    files: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            maps = sorted(file for file in path.iterdir() if _is_label_map(file))
            if not maps:
                raise InvalidRequest(f"masks: folder '{path}' has no .nii or .nii.gz file")
            files.update(dict.fromkeys(maps))
        elif _is_label_map(path):
            files[path] = None
        else:
            raise InvalidRequest(f"masks: '{path}' is neither a folder nor a .nii or .nii.gz file")
    return list(files)


def _is_label_map(path: Path) -> bool:
    # A name that begins with a dot is a draft that is still being written.
    is_nifti = path.name.endswith((".nii", ".nii.gz")) and not path.name.startswith(".")
    return is_nifti and path.is_file()


def check(count: int, seed: int) -> None:
    """Raise `InvalidRequest` unless a plan can have `count` rows and this seed."""
    if not 1 <= count <= _SEEDS:
        raise InvalidRequest(f"the plan would have {count} rows; allowed are 1 to {_SEEDS}")
    if not 0 <= seed < 2**31:
        raise InvalidRequest(f"the seed of the plan is {seed}; allowed are 0 to {2**31 - 1}")


def largest_remainder(shares: Mapping[_Name, float], count: int) -> dict[_Name, int]:
    """Return `count` divided in proportion to `shares`, whose sum may be any number.

    This is Hamilton's method: each exact number is rounded down, and the numbers with the largest
    remainders are increased by 1 until the sum is `count`. If remainders are equal, the first
    number is increased. Raises `InvalidRequest` for a share that is not above 0.
    """
    for name, share in shares.items():
        if not 0 < share < math.inf:
            raise InvalidRequest(f"the share of {name} is {share}; a number above 0 is expected")
    as_written = {name: Fraction(str(share)) for name, share in shares.items()}  # 0.15 is 15/100
    whole = sum(as_written.values())
    exact = {name: count * share / whole for name, share in as_written.items()}
    counts = {name: math.floor(part) for name, part in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: count - sum(counts.values())]:
        counts[name] += 1
    return counts


def deal(items: Sequence[_Item], count: int, generator: random.Random) -> list[_Item]:
    """Return `count` items in random order, each of `items` equally often to within one."""
    return list(itertools.islice(itertools.cycle(shuffled(items, generator)), count))


def shuffled(items: Sequence[_Item], generator: random.Random) -> list[_Item]:
    """Return `items` in random order.

    The keys are numbers of `random()`, the only method of `random.Random` whose numbers stay the
    same in later versions of Python:
    https://docs.python.org/3/library/random.html#notes-on-reproducibility.
    """
    return sorted(items, key=lambda _: generator.random())


def numbered_rows(
    all_arguments: Sequence[Mapping[str, Any]], seed: int, license_: str = ""
) -> list[Row]:
    """Return rows with these arguments. The number of a row gives its name and its seed.

    The name has the form that `read_plan` uses. Arguments that are None are left out. Each row gets
    a group; see `assign_groups`.
    """
    width = max(4, len(str(len(all_arguments) - 1)))
    rows = []
    for index, row_arguments in enumerate(all_arguments):
        arguments = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in row_arguments.items()
            if value is not None
        }
        arguments["seed"] = seed * _SEEDS + index
        rows.append(Row(f"case_{index:0{width}}", arguments, license_))
    return assign_groups(rows)
