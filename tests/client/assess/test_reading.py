"""The volumes of each layout, and what is said of folders that have none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from maisi_client import InvalidRequest
from maisi_client._assess.reading import Item, read_dataset, read_report

FIDELITY = {"fidelity": {"faithful": True}}


def write(base: Path, *files: str, report: str | None = None) -> None:
    for file in files:
        path = base / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    if report:
        (base / report).parent.mkdir(parents=True, exist_ok=True)
        (base / report).write_text(json.dumps(FIDELITY))


def described(base: Path, **contents: object) -> None:
    (base / "dataset.json").write_text(json.dumps(contents))


@pytest.mark.parametrize(
    ("layout", "image", "labels", "report", "name"),
    [
        ("plain", "images/a.nii.gz", "labels/a.nii.gz", "reports/a.json", "a"),
        ("nnunet", "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "reports/a.json", "a"),
        ("msd", "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "reports/a.json", "a"),
        (
            "bids",
            "sub-a/anat/sub-a_acq-swi_T2starw.nii.gz",
            "derivatives/labels/sub-a/anat/sub-a_dseg.nii.gz",
            "sub-a/anat/sub-a_acq-swi_T2starw.json",
            "sub-a_acq-swi_T2starw",
        ),
        ("folder", "deep/a.nii", "deep/a_mask.nii.gz", "deep/a.json", "deep/a"),
    ],
)
def test_every_layout_has_image_labels_and_report(
    tmp_path: Path, layout: str, image: str, labels: str, report: str, name: str
) -> None:
    write(tmp_path, image, labels, "unfaithful/images/b.nii.gz", report=report)
    if layout == "folder":
        (tmp_path / "unfaithful/images/b.nii.gz").unlink()
    if layout == "nnunet":
        write(tmp_path, "imagesTr/a_0001.nii.gz")  # another channel of the same case
        described(tmp_path, channel_names={"0": "CT"}, labels={"background": 0, "liver": 1})
    if layout == "msd":
        described(tmp_path, modality={"0": "MRI"}, labels={"0": "background", "1": "liver"})
    dataset = read_dataset(tmp_path, "SYNTHETIC")
    assert dataset.layout == layout
    item = Item(name, tmp_path / image, tmp_path / labels, tmp_path / report)
    assert dataset.items == (item,)
    assert read_report(item) == FIDELITY
    assert dataset.unfaithful == (layout != "folder")
    assert dataset.modality == {"nnunet": "ct", "msd": "mr"}.get(layout)
    assert dataset.label_names[1] == "liver"


def test_labels_and_reports_may_be_missing(tmp_path: Path) -> None:
    write(tmp_path, "images/a.nii.gz", "images/.hidden.nii.gz")
    (item,) = read_dataset(tmp_path, "SYNTHETIC").items
    assert item.labels is None and item.report is None and read_report(item) == {}


def test_a_report_that_is_damaged_is_no_report(tmp_path: Path) -> None:
    write(tmp_path, "images/a.nii.gz", report="reports/a.json")
    (tmp_path / "reports/a.json").write_text("{")
    (item,) = read_dataset(tmp_path, "SYNTHETIC").items
    assert item.report is not None and read_report(item) == {}


def test_a_folder_without_volumes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"--real is '.*', which has no volume"):
        read_dataset(tmp_path, "--real")
    with pytest.raises(InvalidRequest, match="does not exist or is not a folder"):
        read_dataset(tmp_path / "none", "--real")


def test_a_description_that_is_damaged_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path, "imagesTr/a.nii.gz")
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(InvalidRequest, match=r"dataset\.json' cannot be read"):
        read_dataset(tmp_path, "SYNTHETIC")
