"""Groups of rows that show one anatomy, and folds that keep each group together.

The validation of a network is too optimistic if its training data has the same anatomy. Rows with
the same mask or source show one anatomy, whatever their variants, modalities and seeds are.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from .._errors import InvalidRequest, MaisiError
from .._grid import open_image, voxel_digest
from .._mask import load_greys, load_mask, open_mask
from .row import NAME, Row

_Item = TypeVar("_Item", bound=Hashable)

FOLDS = 5  # folds of nnU-Net's cross-validation
_SUFFIX = re.compile(r"\.(nii(\.gz)?|dcm|mgz|mgh|nrrd|img|hdr)$", re.IGNORECASE)


@dataclass(frozen=True)
class _Picture:
    """A file or an image in memory, its role (`mask` or `source`) and the vocabulary of its ids."""

    value: Any
    role: str
    vocabulary: str | None

    def sides(self) -> tuple[int, ...]:
        """Return the sides in voxels, sorted, because the axes may have any order."""
        if self.role == "mask":
            _, image = open_mask(self.value)
        else:
            _, image = open_image(self.value, self.role, InvalidRequest)
        return tuple(sorted(side for side in image.shape if side != 1))

    def digest(self) -> str:
        """Return the SHA-256 of the shape and the voxels in RAS+ order, wherever they are."""
        masked = self.role == "mask"
        return voxel_digest(
            load_mask(self.value, self.vocabulary) if masked else load_greys(self.value)
        )


def assign_groups(rows: Sequence[Row]) -> list[Row]:
    """Return the rows, each with the group of its anatomy.

    Rows belong together if they have the same mask or source, or if they have neither and the same
    seed. Files with the same voxels are the same mask, unless every row already names its group:
    then no file is read. If a row names a group, all rows that belong to it get this group, so
    several masks of one person can be joined. Any other group is named after the mask or source of
    its first row, or after that row.

    Raises `InvalidRequest` if rows that belong together name different groups.
    """
    pictures = [_pictures(row) for row in rows]
    digests = {} if all(row.group for row in rows) else _digests(pictures)
    anatomies = [_anatomies(row, own, digests) for row, own in zip(rows, pictures, strict=True)]
    components = connected(anatomies)
    members: dict[int, list[Row]] = defaultdict(list)
    for row, component in zip(rows, components, strict=True):
        members[component].append(row)
    names = {component: _named(group) for component, group in members.items()}
    taken = {name for name in names.values() if name}
    for component, group in members.items():
        if not names[component]:
            names[component] = _unused(_suggested(group[0]), taken)
            taken.add(names[component])
    return [
        replace(row, group=names[component])
        for row, component in zip(rows, components, strict=True)
    ]


def connected(all_keys: Sequence[Iterable[_Item]]) -> list[int]:
    """Return the component of each item: items with a key in common are in the same component.

    The number of a component is the index of its first item.
    """
    parents = list(range(len(all_keys)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    first: dict[_Item, int] = {}
    for index, keys in enumerate(all_keys):
        for key in keys:
            one, other = sorted((root(first.setdefault(key, index)), root(index)))
            parents[other] = one
    return [root(index) for index in range(len(all_keys))]


def folds(cases: Mapping[str, str]) -> list[dict[str, list[str]]]:
    """Return nnU-Net's `splits_final.json` for cases and their groups; empty for a single group.

    The result is a list of five objects with the names of the cases in `train` and `val`. No group
    is on both sides of a fold. The folds validate on about equally many cases, and each group is in
    the validation of one fold. With fewer than five groups, later folds repeat earlier ones,
    because nnU-Net splits at random for a fold that the list does not have.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for name, group in sorted(cases.items()):
        members[group].append(name)
    count = min(FOLDS, len(members))
    if count < 2:
        return []
    validation: list[list[str]] = [[] for _ in range(count)]
    for _, names in sorted(members.items(), key=lambda item: (-len(item[1]), item[0])):
        min(validation, key=len).extend(names)
    return [
        {
            "train": sorted(cases.keys() - set(validation[fold % count])),
            "val": sorted(validation[fold % count]),
        }
        for fold in range(FOLDS)
    ]


def _anatomies(
    row: Row, pictures: Mapping[Hashable, _Picture], digests: Mapping[Hashable, str]
) -> list[Hashable]:
    """Return keys for the origin of a row's anatomy, and for its group if it names one."""
    keys: list[Hashable] = [("group", row.group)] if row.group else []
    for identity in pictures:
        keys.append(identity)
        if identity in digests:
            keys.append(("voxels", digests[identity]))
    if not pictures:
        # The seed is the noise of a generated mask, and variants can have the same mask networks.
        seed = row.arguments.get("seed")
        keys.append(("row", row.name) if seed is None else ("seed", seed))
    return keys


def _pictures(row: Row) -> dict[Hashable, _Picture]:
    """Return the mask and the source of a row, by file or object."""
    pictures: dict[Hashable, _Picture] = {}
    for role in ("mask", "source"):
        picture = row.arguments.get(role)
        if isinstance(picture, (str, os.PathLike)):
            key: Hashable = ("file", _real_path(picture))
        else:
            key = ("object", id(picture))
        if picture is not None:
            pictures[key] = _Picture(picture, role, row.arguments.get("vocabulary"))
    return pictures


def _digests(rows: Iterable[Mapping[Hashable, _Picture]]) -> dict[Hashable, str]:
    """Return the digests of all masks and sources whose shape occurs more than once.

    Their voxels are read once. Other pictures differ from all others, so only their headers are
    read. A picture that cannot be read has no digest, because its request will be refused.
    """
    pictures = {key: picture for row in rows for key, picture in row.items()}
    if len(pictures) < 2:
        return {}
    alike: dict[Hashable, list[Hashable]] = defaultdict(list)
    for key, picture in pictures.items():
        with suppress(MaisiError):
            alike[picture.role, picture.sides()].append(key)
    digests: dict[Hashable, str] = {}
    for key in (key for keys in alike.values() if len(keys) > 1 for key in keys):
        with suppress(MaisiError):
            digests[key] = pictures[key].digest()
    return digests


def _real_path(path: str | os.PathLike[str]) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # a null character; the request will be refused
        return os.fspath(path)


def _named(rows: Sequence[Row]) -> str:
    """Return the group that rows of one component name; empty if none does."""
    named = [row for row in rows if row.group]
    for row in named:
        if row.group != named[0].group:
            raise InvalidRequest(
                f"row '{row.name}' has group '{row.group}' but shows the same anatomy as row"
                f" '{named[0].name}' with group '{named[0].group}'; one group is expected"
            )
    return named[0].group if named else ""


def _suggested(row: Row) -> str:
    picture = row.arguments.get("mask", row.arguments.get("source"))
    if not isinstance(picture, (str, os.PathLike)):
        return row.name
    stem = _SUFFIX.sub("", Path(picture).name)
    name = re.sub(r"[^A-Za-z0-9._-]", "-", stem)
    return name if NAME.fullmatch(name) else row.name


def _unused(name: str, taken: set[str]) -> str:
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate
