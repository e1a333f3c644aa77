"""Find the volumes of a dataset in the layout nnU-Net, MSD, BIDS or `plain`, or in any folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._anatomy import NAMES
from .._datasets.dataset_json import names_of_labels, read_dataset_json
from .._datasets.report_files import BIDS_LABELS, channel_end, report_files
from .._errors import InvalidRequest
from .._validation import read_json_file
from .._volume import SUFFIXES, stem

_MASK = "_mask"  # `Volume.save` appends it to the name of a volume's mask


@dataclass(frozen=True)
class Item:
    """A volume of a dataset: its image, and its labels and report if there are any."""

    name: str
    image: Path
    labels: Path | None
    report: Path | None


@dataclass(frozen=True)
class Dataset:
    """The volumes of a folder.

    `role` names the folder in errors and in the report. `label_names` maps label ids to names.
    `modality` is `ct` or `mr`, or None if the dataset's description does not state it. `unfaithful`
    is the number of volumes that `maisi dataset` moved to `unfaithful/`.
    """

    role: str
    folder: Path
    layout: str
    items: tuple[Item, ...]
    label_names: Mapping[int, str]
    modality: str | None
    unfaithful: int


def read_dataset(folder: str | os.PathLike[str], role: str) -> Dataset:
    """Return the volumes of a folder, sorted by name.

    The layouts are those that `maisi dataset` writes (`nnunet`, `msd`, `bids`, `plain`). If a case
    has several channels, only the first one is used. Any other folder is searched for `.nii` and
    `.nii.gz` files; `NAME_mask.nii.gz` has the labels of `NAME.nii.gz`. Raises `InvalidRequest` for
    a folder that does not exist, has no volume, or has a damaged description.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InvalidRequest(f"{role} is '{path}'; it does not exist or is not a folder")
    description = read_dataset_json(path)
    if (path / "imagesTr").is_dir():
        layout = "nnunet" if "channel_names" in description else "msd"
        items = _beside(path / "imagesTr", path / "labelsTr", layout)
    elif any(path.glob("sub-*/**/anat")):
        layout, items = "bids", _bids(path)
    elif (path / "images").is_dir():
        layout, items = "plain", _beside(path / "images", path / "labels", "plain")
    else:
        layout, items = "folder", _any_folder(path)
    volumes = tuple(sorted(items, key=lambda item: item.name))
    if not volumes:
        raise InvalidRequest(f"{role} is '{path}', which has no volume (.nii or .nii.gz)")
    return Dataset(
        role,
        path,
        layout,
        volumes,
        names_of_labels(description) or NAMES,
        _modality(description),
        sum(1 for _ in _images(path / "unfaithful")) if (path / "unfaithful").is_dir() else 0,
    )


def read_report(item: Item) -> Mapping[str, Any]:
    """Return the server's report of a volume; empty if there is no readable report."""
    if item.report is None:
        return {}
    try:
        return read_json_file(item.report)
    except (OSError, ValueError):
        return {}


def _images(folder: Path) -> Iterator[Path]:
    """Yield the volumes below a folder, without masks and hidden files."""
    for path in folder.rglob("*.nii*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        labels = {"labels", "labelsTr", "derivatives"} & set(path.relative_to(folder).parts)
        if path.name.endswith(SUFFIXES) and not hidden and not labels and path.is_file():
            yield path


def _beside(images: Path, labels: Path, layout: str) -> Iterator[Item]:
    for path in images.iterdir():
        if not path.name.endswith(SUFFIXES) or path.name.startswith("."):
            continue
        name = stem(path)
        if layout == "nnunet":
            if not name.endswith(channel_end(0)):
                continue  # another channel of the same case
            name = name.removesuffix(channel_end(0))
        yield Item(name, path, _first(labels / f"{name}{end}" for end in SUFFIXES), _report(path))


def _bids(folder: Path) -> Iterator[Item]:
    for path in folder.glob("sub-*/**/anat/*.nii*"):
        if path.name.endswith(SUFFIXES) and not path.name.endswith(("_dseg.nii", "_dseg.nii.gz")):
            relative = path.parent.relative_to(folder)
            subject = stem(path).rpartition("_")[0].split("_acq-")[0]
            there = folder / BIDS_LABELS / relative
            labels = _first(there / f"{subject}_dseg{end}" for end in SUFFIXES)
            yield Item(stem(path), path, labels, _report(path))


def _any_folder(folder: Path) -> Iterator[Item]:
    for path in _images(folder):
        name = stem(path)
        if name.endswith(_MASK) or name.endswith("_dseg"):
            continue
        labels = _first(path.with_name(f"{name}{_MASK}{end}") for end in SUFFIXES)
        relative = path.relative_to(folder)
        yield Item(relative.with_name(name).as_posix(), path, labels, _report(path))


def _report(image: Path) -> Path | None:
    return _first(report_files(image, stem(image)))


def _first(paths: Any) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _modality(description: Mapping[str, Any]) -> str | None:
    channels = description.get("channel_names", description.get("modality"))
    if not isinstance(channels, dict) or not channels:
        return None
    name = str(next(iter(channels.values()))).upper()
    if name == "CT":
        return "ct"
    return "mr" if name.startswith(("MR", "T1", "T2", "FLAIR")) else None
