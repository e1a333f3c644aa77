"""The pictures of a session: masks and volumes, each a NIfTI file in the session's folder."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from .._anatomy import NAMES
from .._atomic import atomic
from .._grid import Spacing
from .._volume import Volume, mask_path, report_path
from .errors import not_found
from .events import Events
from .timestamp import timestamp

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 60


@dataclass(frozen=True)
class Call:
    """The call of `Client.generate` or `Client.mask` that makes a file.

    `mask` and `source` are the names of the files when they are downloaded. `arguments` has the
    other arguments, including a seed. `output` is the name of the output file without its ending.
    """

    method: str
    mask: str | None
    source: str | None
    arguments: Mapping[str, Any]
    output: str


@dataclass(frozen=True)
class Picture:
    """A mask or a volume.

    `name` is the name of its file when it is downloaded. `shape` is the shape `[X, Y, Z]` of the
    file's array, `spacing` is in mm along its axes, and `affine` is `[4, 4]`. `labels` are the
    labels of a mask. `mask` and `source` are ids of the pictures that a volume was made from.
    `vocabulary` is `maisi` if the ids of a mask are known to be MAISI's.
    """

    id: str
    kind: str
    title: str
    name: str
    created: str
    shape: tuple[int, ...]
    spacing: Spacing
    affine: tuple[tuple[float, ...], ...]
    labels: tuple[Mapping[str, Any], ...] = ()
    mask: str | None = None
    source: str | None = None
    vocabulary: str | None = None
    warnings: tuple[str, ...] = ()
    report: Mapping[str, Any] | None = None
    call: Call | None = None

    def json(self) -> dict[str, Any]:
        """Return the picture in the form that the page reads."""
        fields = {key: value for key, value in vars(self).items() if key != "call"}
        return {**fields, "request": self.call and dict(self.call.arguments)}


class Pictures:
    """The pictures of a session, in the order of their arrival; `folder` has their files."""

    def __init__(self, folder: Path, events: Events) -> None:
        self.folder, self._events = folder, events
        self._by_id: dict[str, Picture] = {}
        self._names: set[str] = set()

    def __iter__(self) -> Any:
        return iter(list(self._by_id.values()))

    def get(self, id_: str, kind: str | None = None) -> Picture:
        """Return the picture with this id; raises `Refused` if there is none of this kind."""
        picture = self._by_id.get(id_)
        if picture is None or kind not in (None, picture.kind):
            raise not_found(kind or "picture")
        return picture

    def find(self, id_: str | None, kind: str) -> Picture | None:
        """Return the picture with this id, or None for None; raises `Refused` as `get` does."""
        return None if id_ is None else self.get(id_, kind)

    def path(self, picture: Picture) -> Path:
        """Return the path of a picture's file."""
        return self.folder / f"{picture.name}.nii.gz"

    def reserve(self, title: str) -> str:
        """Return a name of letters, digits, . _ - that no file or mask of a file has."""
        plain = _NOT_IN_A_NAME.sub("-", title)[:_LONGEST_NAME].strip("-._") or "picture"
        name, number = plain, 1
        while (files := {name.casefold(), f"{name}_mask".casefold()}) & self._names:
            number += 1
            name = f"{plain}-{number}"
        self._names |= files  # some file systems ignore the case of names
        return name

    def add(self, *pictures: Picture) -> None:
        """Add pictures whose files exist."""
        for picture in pictures:
            self._by_id[picture.id] = picture
            self._events.publish("picture", picture.json())

    def remove(self, id_: str) -> None:
        """Remove a picture and its files."""
        picture = self.get(id_)
        del self._by_id[id_]
        path = self.path(picture)
        for file in (path, report_path(path)):
            file.unlink(missing_ok=True)
        self._events.publish("removed", {"id": id_})


def save_mask(folder: Path, image: nib.Nifti1Image, name: str, title: str, **parts: Any) -> Picture:
    """Write a label mask, uint8, in the form of `maisi mask`; return its picture."""
    _write(folder, image, name)
    return mask_picture(image, name, title, **parts)


def mask_picture(image: nib.Nifti1Image, name: str, title: str, **parts: Any) -> Picture:
    """Return the picture of a label mask, uint8, whose file exists."""
    labels = np.asanyarray(image.dataobj)
    return _picture("mask", image, name, title, labels=_labels(labels, image.affine), **parts)


def save_greys(
    folder: Path, image: nib.Nifti1Image, name: str, title: str, **parts: Any
) -> Picture:
    """Write a volume without a report; return its picture."""
    _write(folder, image, name)
    return _picture("volume", image, name, title, **parts)


def _write(folder: Path, image: nib.Nifti1Image, name: str) -> None:
    with atomic(folder / f"{name}.nii.gz") as draft:
        nib.save(image, draft)


def save_volume(
    folder: Path,
    volume: Volume,
    call: Call,
    title: str,
    mask: str | None,
    source: str | None,
) -> tuple[Picture, Picture | None]:
    """Write a volume in the form of `maisi generate`; return its picture and that of its own mask.

    `mask` and `source` are the ids of the pictures that it was made from. The report has the names
    of their downloads, so `maisi reproduce` finds them in the same folder.
    """
    names = {"mask": call.mask, "source": call.source}
    request = {key: names.get(key, value) for key, value in volume.report["request"].items()}
    volume = Volume(volume.image, {**volume.report, "request": request}, volume.mask)
    path = folder / f"{call.output}.nii.gz"
    volume.save(path)
    own_mask = None
    if volume.mask is not None:
        own_mask = mask_picture(
            volume.mask,
            mask_path(path).name.removesuffix(".nii.gz"),
            f"{title}, mask",
            call=call,
            vocabulary="maisi",
        )
    picture = _picture(
        "volume",
        volume.image,
        call.output,
        title,
        mask=own_mask.id if own_mask else mask,
        source=source,
        warnings=tuple(volume.report.get("warnings", ())),
        report=volume.report,
        call=call,
    )
    return picture, own_mask


def _picture(kind: str, image: nib.Nifti1Image, name: str, title: str, **parts: Any) -> Picture:
    affine = np.asarray(image.affine, np.float64)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    x, y, z = np.round(lengths, 5).tolist()
    return Picture(
        id=secrets.token_hex(16),
        kind=kind,
        title=title,
        name=name,
        created=timestamp(),
        shape=tuple(map(int, image.shape)),
        spacing=(x, y, z),
        affine=tuple(tuple(row) for row in affine.tolist()),
        **parts,
    )


def _labels(labels: NDArray[np.uint8], affine: NDArray[Any]) -> tuple[dict[str, Any], ...]:
    """Return the id, name and volume in ml of each label above 0."""
    counts = sum(np.bincount(plane.ravel(), minlength=256) for plane in labels)
    millilitres = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    return tuple(
        {"id": id_, "name": NAMES.get(id_, f"label {id_}"), "ml": round(n * millilitres, 3)}
        for id_, n in enumerate(np.asarray(counts).tolist())
        if n and id_
    )
