"""Plans that are drawn: so many rows, contrasts in given shares, masks in turn."""

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
from .plan import Row

_Item = TypeVar("_Item")
_Name = TypeVar("_Name", bound=Hashable)

# The seeds of a plan are this many times its own seed and what follows: those of two plans differ.
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

    `modalities` maps names to shares of any sum, such as `{"mri_t1": 0.5, "mri_flair": 0.5}`; they
    are met to within one row. `masks` are label maps and folders of them, not searched below; each
    label map is used equally often to within one row, in each modality, too. `augment` makes each
    use of a mask a little different. `same` are arguments of `Client.generate` that all rows have.
    The rows are named `case_0000` and on, and the seed of row R is `seed` * 2^32 + R.

    Raises `InvalidRequest` for a share that is not above 0, for masks that are not there, and for
    what contradicts itself.
    """
    check(count, seed)
    files = label_maps(masks)
    taken = [name for name in ("size", "preset") if same.get(name) is not None]
    if files and taken:
        raise InvalidRequest(f"{taken[0]} is given together with masks, which have their own size")
    if augment and not files:
        raise InvalidRequest("augment is given without masks, which it would make different")
    chance = random.Random(seed)
    drawn: list[dict[str, Any]] = [dict(same) for _ in range(count)]
    if modalities:
        counts = largest_remainder(modalities, count)
        contrasts = [name for name, times in counts.items() for _ in range(times)]
        for arguments, modality in zip(drawn, contrasts, strict=True):
            arguments["modality"] = modality
    if files:
        for arguments, mask in zip(drawn, deal(files, count, chance), strict=True):
            arguments.update({"mask": mask} | ({"augment": True} if augment else {}))
    return number(shuffled(drawn, chance), seed)


def label_maps(places: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return the NIfTI files among `places` and those in the folders among them, in order.

    Raises `InvalidRequest` for what is neither, and for a folder without any.
    """
    files: dict[Path, None] = {}
    for place in map(Path, places):
        if place.is_dir():
            inside = sorted(path for path in place.iterdir() if _is_label_map(path))
            if not inside:
                raise InvalidRequest(f"masks: folder '{place}' holds no .nii or .nii.gz")
            files.update(dict.fromkeys(inside))
        elif _is_label_map(place):
            files[place] = None
        else:
            raise InvalidRequest(f"masks: '{place}' is neither a folder nor a .nii or .nii.gz file")
    return list(files)


def _is_label_map(path: Path) -> bool:
    # A name that begins with a dot is the draft of one who still writes.
    named = path.name.endswith((".nii", ".nii.gz")) and not path.name.startswith(".")
    return named and path.is_file()


def check(count: int, seed: int) -> None:
    """Raise `InvalidRequest` unless a plan can have so many rows and this seed."""
    if not 1 <= count <= _SEEDS:
        raise InvalidRequest(f"a plan of {count} rows is asked for; allowed are 1 to {_SEEDS}")
    if not 0 <= seed < 2**31:
        raise InvalidRequest(f"the seed of the plan is {seed}; allowed are 0 to {2**31 - 1}")


def largest_remainder(shares: Mapping[_Name, float], count: int) -> dict[_Name, int]:
    """Divide `count` by shares of any sum; what is left over goes to the largest remainders.

    Hamilton's method: every number is the share's own, rounded down or up; of two equal remainders
    the first wins. Raises `InvalidRequest` for a share that is not above 0.
    """
    for name, share in shares.items():
        if not 0 < share < math.inf:
            raise InvalidRequest(f"the share of {name} is {share}; allowed is what is above 0")
    as_written = {name: Fraction(str(share)) for name, share in shares.items()}  # 0.15 is 15/100
    whole = sum(as_written.values())
    exact = {name: count * share / whole for name, share in as_written.items()}
    counts = {name: math.floor(part) for name, part in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: count - sum(counts.values())]:
        counts[name] += 1
    return counts


def deal(items: Sequence[_Item], count: int, chance: random.Random) -> list[_Item]:
    """Return `count` of `items`, in turn from a random order: each equally often, to within one."""
    return list(itertools.islice(itertools.cycle(shuffled(items, chance)), count))


def shuffled(items: Sequence[_Item], chance: random.Random) -> list[_Item]:
    """Return `items` in random order.

    Python promises the numbers of `random()` to stay the same in its later versions, and of no
    other method: https://docs.python.org/3/library/random.html#notes-on-reproducibility.
    """
    return sorted(items, key=lambda _: chance.random())


def number(drawn: Sequence[Mapping[str, Any]], seed: int, license_: str = "") -> list[Row]:
    """Return rows with these arguments, named and seeded by their number, as `read_plan` has them.

    What is None is left out.
    """
    width = max(4, len(str(len(drawn) - 1)))
    rows = []
    for at, asked in enumerate(drawn):
        arguments = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asked.items()
            if value is not None
        }
        arguments["seed"] = seed * _SEEDS + at
        rows.append(Row(f"case_{at:0{width}}", arguments, license_))
    return rows
