"""Write and send the volumes of a dataset as DICOM. A run can be stopped and continued."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np

from .._datasets.cases import groups_of_cases
from .._datasets.dataset_json import names_of_labels, read_dataset_json
from .._datasets.report_files import BIDS_LABELS, channel_end, report_files
from .._errors import InvalidRequest, MaisiError, MaskError
from .._grid import open_image
from .._label_names import label_id
from .._volume import Volume, report_path
from .segmentation_writer import require_dicom
from .sending import Destination
from .series import save_dicom

# The images of all layouts of `maisi dataset`, without those in `unfaithful/`.
_IMAGES = ("images/[!.]*.nii.gz", "imagesTr/[!.]*.nii.gz", "sub-*/**/anat/[!.]*.nii.gz")
_CHANNEL = re.compile(r"_\d{4}$")  # the channel at the end of an image's name in nnU-Net
_RECORD = "sent.jsonl"  # a line for each volume that was sent to a destination


@dataclass(frozen=True)
class _Series:
    """A volume to write: its image file, its report, and its channel if the file is 4-D."""

    name: str
    image: Path
    report: Path
    channel: int | None = None


@dataclass(frozen=True)
class Study:
    """The result for a volume.

    `state` is `written`, `kept` if an earlier run wrote it, or `failed`; then `error` is not empty.
    """

    name: str
    state: str
    error: str = ""


def dataset_dicom(
    dataset: str | os.PathLike[str],
    to: str | os.PathLike[str] | None,
    *,
    labelmap: bool = False,
    destinations: Sequence[Destination] = (),
) -> Iterator[Study]:
    """Write every volume of a dataset, with its labels, as DICOM into `to/NAME`, and send it.

    `dataset` is the folder that `make_dataset` wrote, in any layout. A volume without a report is
    incomplete and is left out. Without `to`, no files are kept. With `to`, a second run writes and
    sends only the volumes that the first run did not; the folders in `to` and the file `sent.jsonl`
    record them. Yield each volume when it is written and sent.

    Raises `InvalidRequest` if there is no volume or a receiver refuses the files,
    `ServerUnavailable` if a receiver does not answer, `ServerError` if it fails, and `MaisiError`
    without the extra `dicom`.
    """
    require_dicom("contourpy")
    dataset = Path(dataset)
    images = sorted(image for pattern in _IMAGES for image in dataset.glob(pattern))
    all_series = [series for image in images for series in _series(image)]
    if not all_series:
        raise InvalidRequest(f"'{dataset}' has no volume with a report; a dataset is expected")
    names, groups = _names(dataset), groups_of_cases(dataset)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()) if to is None else to)
        folder.mkdir(exist_ok=True)
        sent = _sent(folder)
        for series in all_series:
            name = series.name
            for draft in folder.glob(f".????????.{glob.escape(name)}"):  # left by a killed process
                shutil.rmtree(draft)
            state = "kept" if (folder / name).exists() else "written"
            try:
                if state == "written":
                    volume, labels = _volume(dataset, series, names, groups)
                    save_dicom(volume, folder / name, labels=labels, labelmap=labelmap)
            except MaisiError as error:
                yield Study(name, "failed", str(error))
                continue
            for destination in destinations:
                if [destination.name, name] not in sent:
                    try:
                        destination.send(sorted((folder / name).glob("*.dcm")))
                    except MaisiError as error:
                        raise type(error)(f"{name}: {error}", error.kind) from error
                    with (folder / _RECORD).open("a") as record:
                        record.write("\n" + json.dumps([destination.name, name]))
            if to is None:
                shutil.rmtree(folder / name)
            yield Study(name, state)


def _sent(folder: Path) -> list[list[str]]:
    """Return destination and name of each volume that was sent; incomplete lines are ignored."""
    record, sent = folder / _RECORD, []
    for line in record.read_text().splitlines() if record.is_file() else ():
        with contextlib.suppress(ValueError):
            sent.append(json.loads(line))
    return sent


def _series(image: Path) -> list[_Series]:
    """Return the volumes of an image file; none if one of their reports is missing.

    In MSD's layout one file has all channels of a case, `[X, Y, Z, C]`, and each has a report.
    """
    name = report_path(image).stem
    for report in filter(Path.is_file, report_files(image, name)):
        return [_Series(name, image, report)]
    if image.parent.name != "imagesTr":
        return []
    try:
        shape = open_image(image, "volume", InvalidRequest)[1].shape
    except InvalidRequest:  # the image has no report
        return []
    names = [name + channel_end(number) for number in range(shape[3] if len(shape) == 4 else 0)]
    reports = [image.parent.parent / "reports" / f"{channel}.json" for channel in names]
    if not all(map(Path.is_file, reports)):
        return []
    return [
        _Series(channel, image, report, number)
        for number, (channel, report) in enumerate(zip(names, reports, strict=True))
    ]


def _names(dataset: Path) -> dict[int, str]:
    """Return the names of the label ids in the layouts of nnU-Net and MSD."""
    if not (dataset / "imagesTr").is_dir():
        return {}
    names = names_of_labels(read_dataset_json(dataset))
    if not names:
        raise InvalidRequest(
            f"'{dataset / 'dataset.json'}' does not have the names of labels; `maisi dataset`"
            " writes them when all rows are made"
        )
    return names


def _volume(
    dataset: Path, series: _Series, names: Mapping[int, str], groups: Mapping[str, str]
) -> tuple[Volume, Mapping[int, str] | None]:
    """Return a volume with its labels as mask, and the labels' names if the ids are not MAISI's.

    `groups` maps names of rows to their groups; the default is the group in the report.
    """
    volume = Volume.load(series.image, report=series.report)
    if series.channel is not None:
        image = volume.image
        values = np.asarray(image.dataobj[..., series.channel])
        volume = replace(volume, image=nib.Nifti1Image(values, image.affine, image.header))
    row = str(volume.report.get("name"))
    if row in groups:
        volume = replace(volume, report={**volume.report, "group": groups[row]})
    labels = next(filter(Path.is_file, _label_files(dataset, series.image, row)), None)
    if labels is None:
        return replace(volume, mask=None), None
    _, mask = open_image(labels, "mask", MaskError)
    numbers = np.asarray(mask.dataobj)
    present = [int(number) for number in np.unique(numbers) if number]
    if not present:
        return replace(volume, mask=None), None
    volume = replace(volume, mask=mask)
    ids = {number: label_id(names.get(number, "")) for number in present}
    if not names or None in ids.values():
        return volume, names or None
    table = np.zeros(max(present) + 1, np.uint8)
    table[present] = [ids[number] for number in present]
    own = nib.Nifti1Image(table[numbers], mask.affine, dtype=np.uint8)
    return replace(volume, mask=own), None


def _label_files(dataset: Path, image: Path, row: str) -> list[Path]:
    """Return the possible paths of the labels of an image; its report has the name `row`."""
    if image.parent.name == "anat":  # BIDS
        folder = dataset / BIDS_LABELS / image.parent.relative_to(dataset)
        return sorted(folder.glob("*_dseg.nii.gz"))
    name = report_path(image).stem
    folder = image.parent.with_name(image.parent.name.replace("images", "labels"))
    rows = [row] if name.startswith(f"{row}_") else []  # `plain` appends the modality
    names = sorted({name, _CHANNEL.sub("", name), *rows}, key=lambda one: one != row)
    return [folder / f"{one}.nii.gz" for one in names]
