"""The record of a volume: everything that the measures need, computed once and stored on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .._atomic import atomic
from .._errors import InvalidRequest
from . import features, obedience
from .harmonising import Greys, Harmony, coarse, load, load_labels
from .reading import Item, read_report

_FORM = 1  # version of the files on disk; records of another version are not used
_VIEW = 192  # most pixels of the longer side of a view
_MANY = 2**23  # voxels; in a larger volume, only every n-th plane is compared with the labels
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Task:
    """A volume to describe, the settings, and the folder of the records."""

    item: Item
    harmony: Harmony
    label_names: Mapping[int, str]
    network: Path | None
    cache: Path


@dataclass(frozen=True)
class Record:
    """The data of a volume that the measures use.

    `slices` `[3, S, F]` float32 are the features of S slices of each plane. `network` `[3, S, N]`
    float32 are features from a network; None without one. `coarse` `[C, C, C]` uint8 is the coarse
    volume. `views` are its three middle slices, uint8, and `outlines` the labels in these slices.
    `facts` are numbers: grid, grey levels, and the volume in ml and the fidelity of labels.
    """

    name: str
    slices: NDArray[np.float32]
    network: NDArray[np.float32] | None
    coarse: NDArray[np.uint8]
    views: list[NDArray[np.uint8]]
    outlines: list[NDArray[np.uint8]]
    facts: Mapping[str, Any] = field(default_factory=dict)


def describe(task: Task) -> Path:
    """Write the record of a volume unless it exists; return its path.

    The file name depends on the digests of the files and on the settings, so a different volume or
    setting has a different record. Raises `InvalidRequest` if the volume or its labels cannot be
    read.
    """
    item = task.item
    files = {"image": item.image, "labels": item.labels, "report": item.report}
    digests = {role: digest(path) for role, path in files.items() if path}
    weights = digest(task.network) if task.network else None
    settings = [_FORM, asdict(task.harmony), digests, weights, dict(task.label_names)]
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    path = task.cache / f"{key[:32]}.npz"
    if not path.exists():
        arrays = _measure(task, digests)
        with atomic(path) as draft, draft.open("wb") as file:
            np.savez_compressed(file, **arrays)
    return path


def read(path: Path, name: str) -> Record:
    """Return a record that `describe` wrote; raises `InvalidRequest` if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return Record(
                name,
                file["slices"],
                file["network"] if "network" in file.files else None,
                file["coarse"],
                [file[f"view{axis}"] for axis in range(3)],
                [file[f"outline{axis}"] for axis in range(3) if f"outline{axis}" in file.files],
                json.loads(file["facts"].item()),
            )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InvalidRequest(f"'{path}' is damaged; delete it and start again") from error


def digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file; raises `InvalidRequest` if it cannot be read."""
    sha = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                sha.update(chunk)
    except OSError as error:
        raise InvalidRequest(f"'{path}' cannot be read: {error.strerror}") from error
    return sha.hexdigest()


def _measure(task: Task, digests: Mapping[str, str]) -> dict[str, Any]:
    volume, raw, spacing = load(task.item.image, task.harmony)
    planes = features.slices(volume, task.harmony.foreground)
    arrays: dict[str, Any] = {
        "slices": np.stack(
            [[features.describe(s, task.harmony.foreground) for s in plane] for plane in planes]
        ),
        "coarse": np.rint(255 * coarse(volume, task.harmony)).astype(np.uint8),
    }
    if task.network:
        from .network import Network

        arrays["network"] = np.stack(
            [Network.load(task.network)(plane) for plane in planes]
        ).astype(np.float32)
    inside = volume[volume > task.harmony.foreground]
    inside = inside if inside.size else volume.ravel()
    low, high = np.percentile(inside, [10, 90]).tolist()
    facts: dict[str, Any] = {
        "sha256": dict(digests),
        "shape": list(raw.shape),
        "spacing": list(spacing),
        "median": round(float(np.median(inside)), 4),
        "contrast": round(high - low, 4),
        "foreground_ml": round(inside.size * float(np.prod(task.harmony.spacing)) / 1000, 1),
        **_reported(task.item),
    }
    middle = [n // 2 for n in volume.shape]
    for axis in range(3):
        cut = np.take(volume, middle[axis], axis=axis)
        arrays[f"view{axis}"] = _view(np.rint(255 * cut).astype(np.uint8), task.harmony, axis)
    if task.item.labels:
        facts |= _labelled(task, volume, raw, spacing, arrays)
    arrays["facts"] = np.array(json.dumps(facts))
    return arrays


def _reported(item: Item) -> dict[str, Any]:
    """Return the origin of a volume and its faithfulness from the server's report."""
    report = read_report(item)
    fidelity = report.get("fidelity")
    fidelity = fidelity if isinstance(fidelity, dict) else {}
    return {
        "reported_modality": report.get("modality") if report else None,
        "reported_faithful": fidelity.get("faithful"),
    }


def _labelled(
    task: Task, volume: Greys, raw: Greys, spacing: tuple[float, ...], arrays: dict[str, Any]
) -> dict[str, Any]:
    """Return the facts of a volume's labels, and add their outlines to `arrays`."""
    assert task.item.labels is not None
    labels, label_spacing = load_labels(task.item.labels)
    if labels.shape != raw.shape:
        raise InvalidRequest(
            f"labels '{task.item.labels}' have shape {list(labels.shape)} and their volume"
            f" {list(raw.shape)}; the same grid is expected"
        )
    voxel_ml = float(np.prod(spacing)) / 1000
    counts = np.bincount(labels.ravel())
    present = [int(id_) for id_ in np.flatnonzero(counts) if id_]
    step = max(1, -(-raw.size // _MANY))
    part, greys = labels[::step], raw[::step]
    own = obedience.each_label(greys, part, label_spacing, apart=step > 1)
    for axis in range(3):
        cut = np.take(labels, labels.shape[axis] // 2, axis=axis).astype(np.uint8)
        grid = arrays[f"view{axis}"].shape
        picture = Image.fromarray(cut).resize(grid[::-1], Image.Resampling.NEAREST)
        arrays[f"outline{axis}"] = np.asarray(picture)
    ct = task.harmony.modality == "ct"
    return {
        "label_ml": {str(id_): round(float(counts[id_]) * voxel_ml, 3) for id_ in present},
        "borders": obedience.borders(greys, part),
        "labels": {str(id_): asdict(one) for id_, one in own.items()},
        "organs": obedience.organ_medians(raw, labels, task.label_names) if ct else {},
    }


def _view(cut: NDArray[np.uint8], harmony: Harmony, axis: int) -> NDArray[np.uint8]:
    """Return a slice with square pixels, at most `_VIEW` along each side."""
    across = [harmony.spacing[other] for other in range(3) if other != axis]
    extents = [n * mm for n, mm in zip(cut.shape, across, strict=True)]
    pixel = max(max(extents) / _VIEW, min(across))
    size = [max(1, round(extent / pixel)) for extent in extents]
    picture = Image.fromarray(cut).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(picture)
