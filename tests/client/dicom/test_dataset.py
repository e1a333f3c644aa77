"""Datasets as DICOM: every layout, one patient for an anatomy, continued, and sent once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from maisi_client import Client, InvalidRequest, Row, dataset_dicom, make_dataset, save_dicom
from maisi_client._datasets.report_files import LAYOUTS
from maisi_client._dicom.sending import Destination
from maisi_client._errors import ServerUnavailable
from maisi_client._mask import load_mask

from tests.client.affines import oblique
from tests.client.command import maisi
from tests.conftest import Server

FOLDER = "Dataset501_Synthetic"


@pytest.fixture(scope="module")
def mask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = np.zeros((32, 34, 36), np.uint8)
    labels[4:28, 4:30, 6:30], labels[10:16, 8:20, 10:20], labels[20, 20, 20] = 22, 227, 150
    path = tmp_path_factory.mktemp("mask") / "mask.nii.gz"
    nib.save(nib.Nifti1Image(labels, oblique("LPS", (2.0, 2.0, 2.0))), path)
    return path


@pytest.fixture(scope="module")
def datasets(
    server: Server, mask: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Make a dataset of two contrasts of one mask in every layout."""
    rows = [
        Row(f"case_{number}", {"mask": mask, "modality": modality, "seed": number, "steps": 1})
        for number, modality in enumerate(("mri_t1", "mri_flair"))
    ]
    made = {}
    with Client(server.grpc) as client:
        for layout in LAYOUTS:
            made[layout] = tmp_path_factory.mktemp(layout) / FOLDER
            states = [o.state for o in make_dataset(rows, made[layout], client, layout=layout)]
            assert states == ["done", "done"]
    return made


@pytest.fixture
def plain(datasets: dict[str, Path], tmp_path: Path) -> Path:
    """Return a copy of the dataset of the plain layout."""
    return Path(shutil.copytree(datasets["plain"], tmp_path / "set"))


def first(study: Path) -> pydicom.Dataset:
    return pydicom.dcmread(study / "0001.dcm")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(datasets: dict[str, Path], mask: Path, tmp_path: Path, layout: str) -> None:
    result = maisi("dicom", datasets[layout], "--to", tmp_path / "dicom", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["volumes"] == {"written": 2}
    studies = sorted((tmp_path / "dicom").iterdir())
    assert [len(list(study.iterdir())) for study in studies] == [38, 38]
    one, other = map(first, studies)
    assert one.PatientID == other.PatientID
    assert one.StudyInstanceUID == other.StudyInstanceUID
    assert one.SeriesInstanceUID != other.SeriesInstanceUID
    assert one.SeriesNumber != other.SeriesNumber
    assert {one.SeriesDescription, other.SeriesDescription} == {
        "mini mri_t1 seed 0",
        "mini mri_flair seed 1",
    }
    for study in studies:  # the ids are MAISI's, whatever the layout has
        assert np.array_equal(load_mask(study / "mask.dcm").values, load_mask(mask).values)
        rois = pydicom.dcmread(study / "structures.dcm").StructureSetROISequence
        assert [roi.ROINumber for roi in rois] == [22, 150, 227]


def test_a_row_is_the_same_in_every_layout(datasets: dict[str, Path], tmp_path: Path) -> None:
    uids = set()
    for layout in LAYOUTS:
        to = tmp_path / layout
        assert {study.state for study in dataset_dicom(datasets[layout], to)} == {"written"}
        uids.add(frozenset(first(study).SOPInstanceUID for study in to.iterdir()))
    assert len(uids) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_channel_of_a_case_is_a_series(
    server: Server, mask: Path, tmp_path: Path, layout: str
) -> None:
    dataset, channels = tmp_path / FOLDER, ["mri_t1", "mri_flair"]
    rows = [Row("case", {"mask": mask, "seed": 3, "steps": 1})]
    with Client(server.grpc) as client:
        options: dict[str, Any] = {"layout": layout, "channels": channels}
        assert [o.state for o in make_dataset(rows, dataset, client, **options)] == ["done"]
        volumes = [client.generate(modality=m, **rows[0].arguments) for m in channels]
    assert [s.state for s in dataset_dicom(dataset, tmp_path / "dicom")] == ["written", "written"]
    studies = {first(study).SeriesDescription: study for study in (tmp_path / "dicom").iterdir()}
    for modality, volume in zip(channels, volumes, strict=True):
        study = studies[f"mini {modality} seed 3"]
        grouped = replace(volume, report={**volume.report, "group": "mask"})
        save_dicom(grouped, tmp_path / modality, mask=mask)
        for name in ("0001.dcm", "0018.dcm", "0036.dcm"):
            made, alone = (
                pydicom.dcmread(folder / name) for folder in (study, tmp_path / modality)
            )
            assert np.array_equal(made.pixel_array, alone.pixel_array)
            assert made.SOPInstanceUID == alone.SOPInstanceUID
        assert np.array_equal(load_mask(study / "mask.dcm").values, load_mask(mask).values)
    if layout == "msd":
        (dataset / "reports" / "case_0001.json").unlink()  # the case is not whole
        with pytest.raises(InvalidRequest, match="has no volume with a report"):
            list(dataset_dicom(dataset, tmp_path / "again"))


def test_it_goes_on_where_it_was_stopped(plain: Path, tmp_path: Path) -> None:
    to = tmp_path / "dicom"
    states = dataset_dicom(plain, to)
    assert next(states).name == "case_0"
    states.close()
    draft = to / ".01234567.case_1"  # of a killed process
    draft.mkdir()
    (draft / "0001.dcm").touch()
    before = (to / "case_0" / "0001.dcm").stat().st_mtime_ns
    result = maisi("dicom", plain, "--to", to)
    assert result.stdout == "case_0: kept\ncase_1: written\n1 kept, 1 written\n"
    assert sorted(path.name for path in to.iterdir()) == ["case_0", "case_1"]
    assert (to / "case_0" / "0001.dcm").stat().st_mtime_ns == before


def test_what_cannot_be_written_does_not_stop_the_rest(plain: Path, tmp_path: Path) -> None:
    report = plain / "reports" / "case_0.json"
    report.write_text(json.dumps({**json.loads(report.read_text()), "modality": "pet"}))
    (plain / "images" / "half.nii.gz").write_bytes(b"")  # without a report
    result = maisi("dicom", plain, "--to", tmp_path / "dicom", "--json")
    assert result.returncode == 1
    counts, error = (json.loads(line) for line in result.stdout.splitlines())
    assert counts["volumes"] == {"failed": 1, "written": 1}
    assert error["error"]["message"] == "1 of 2 volumes failed"
    assert result.stderr.startswith("case_0: the report's modality is 'pet'")
    assert [path.name for path in (tmp_path / "dicom").iterdir()] == ["case_1"]


def test_labels_that_are_missing_or_empty(plain: Path, tmp_path: Path) -> None:
    (plain / "labels" / "case_0.nii.gz").unlink()
    labels = nib.load(plain / "labels" / "case_1.nii.gz")
    empty = np.zeros(labels.shape, np.uint8)
    nib.save(nib.Nifti1Image(empty, labels.affine), plain / "labels" / "case_1.nii.gz")
    assert {study.state for study in dataset_dicom(plain, tmp_path / "dicom")} == {"written"}
    assert list((tmp_path / "dicom").glob("*/mask.dcm")) == []


def test_names_that_end_in_a_number(plain: Path, tmp_path: Path) -> None:
    """`case_0000` is a row of its own, not the channel of a row `case`."""
    for kind, suffix in (("images", ".nii.gz"), ("labels", ".nii.gz"), ("reports", ".json")):
        (plain / kind / f"case_0{suffix}").rename(plain / kind / f"case{suffix}")
        (plain / kind / f"case_1{suffix}").rename(plain / kind / f"case_0000{suffix}")
    for name, id_ in (("case", 22), ("case_0000", 227)):
        path = plain / "labels" / f"{name}.nii.gz"
        labels = nib.load(path)
        only = np.where(np.asarray(labels.dataobj) == id_, id_, 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(only, labels.affine), path)
        report = plain / "reports" / f"{name}.json"
        report.write_text(json.dumps({**json.loads(report.read_text()), "name": name}))
    list(dataset_dicom(plain, tmp_path / "dicom"))
    for name, id_ in (("case", 22), ("case_0000", 227)):
        structures = pydicom.dcmread(tmp_path / "dicom" / name / "structures.dcm")
        assert [roi.ROINumber for roi in structures.StructureSetROISequence] == [id_]


def test_a_dataset_without_its_description(datasets: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(datasets["msd"], tmp_path / "set"))
    table = json.loads((folder / "dataset.json").read_text())
    named = {
        **table,
        "labels": {"0": "background", **{str(n): f"gizmo {n}" for n in range(1, 250)}},
    }
    (folder / "dataset.json").write_text(json.dumps(named))
    list(dataset_dicom(folder, tmp_path / "named"))
    segments = pydicom.dcmread(tmp_path / "named" / "case_0" / "mask.dcm").SegmentSequence
    assert all(segment.SegmentLabel.startswith("gizmo ") for segment in segments)
    (folder / "dataset.json").unlink()
    with pytest.raises(InvalidRequest, match=r"dataset\.json' does not have the names of labels"):
        list(dataset_dicom(folder, tmp_path / "dicom"))
    assert not (tmp_path / "dicom").exists()
    with pytest.raises(InvalidRequest, match="has no volume with a report"):
        list(dataset_dicom(tmp_path, tmp_path / "dicom"))


@pytest.mark.parametrize("kept", [True, False])
def test_each_volume_is_sent_once(plain: Path, tmp_path: Path, kept: bool) -> None:
    sent: list[list[str]] = []
    broken: list[Any] = [None]

    def send(files: Sequence[Path]) -> None:
        if len(sent) == 1 and broken:
            broken.pop()
            raise ServerUnavailable("gone; 3 of 38 objects were stored")
        sent.append([file.name for file in files])

    to = tmp_path / "dicom" if kept else None
    destinations = [Destination("ARCHIVE at host:104", send)]
    studies = dataset_dicom(plain, to, destinations=destinations)
    assert next(studies).name == "case_0"
    with pytest.raises(ServerUnavailable, match=r"^case_1: gone; 3 of 38 objects were stored$"):
        next(studies)
    states = [study.state for study in dataset_dicom(plain, to, destinations=destinations)]
    if kept:  # it knows what was sent
        assert states == ["kept", "kept"] and len(sent) == 2
        record = tmp_path / "dicom" / "sent.jsonl"
        record.write_text(record.read_text()[:-4])  # cut off
        for _ in range(2):
            list(dataset_dicom(plain, to, destinations=destinations))
            assert len(sent) == 3
    else:
        assert states == ["written", "written"] and len(sent) == 3
    assert all(names[0] == "0001.dcm" and names[-1] == "structures.dcm" for names in sent)


def test_options_of_one_volume(plain: Path, tmp_path: Path) -> None:
    result = maisi("dicom", plain, "--to", tmp_path / "dicom", "--mask", "mask.nii.gz")
    assert result.returncode == 1 and "--mask is of one volume" in result.stderr


def test_rows_of_one_anatomy_are_one_patient(server: Server, tmp_path: Path) -> None:
    """Also where each row has a mask of its own, where it has none, and where plans differ."""
    labels = np.zeros((160, 32, 32), np.uint8)  # so long that a zoom of 1 % changes it
    labels[2:158, 2:30, 2:30] = 22
    nib.save(nib.Nifti1Image(labels, np.diag([2.0, 2, 2, 1])), tmp_path / "mask.nii.gz")
    few: dict[str, Any] = {"modality": "mri_t1", "steps": 2}
    with Client(server.grpc) as client:
        client.generate(seed=9, size=[32, 32, 32], **few).save(tmp_path / "scan.nii.gz")
        augmented = {"mask": tmp_path / "mask.nii.gz", "augment": True, **few}
        source = {"source": tmp_path / "scan.nii.gz", "strength": 0.9, **few}
        plans = [
            [Row(f"augmented-{seed}", {**augmented, "seed": seed}) for seed in (0, 7)],
            [Row(f"source-{seed}", {**source, "seed": seed}) for seed in (1, 2)],
            [Row("mask-3", {**augmented, "augment": False, "seed": 3}, group="another-name")],
        ]
        for rows in plans:
            states = [o.error or o.state for o in make_dataset(rows, tmp_path / "set", client)]
            assert states == ["done"] * len(rows)
    list(dataset_dicom(tmp_path / "set", tmp_path / "dicom"))
    images = {study.name: first(study) for study in (tmp_path / "dicom").iterdir()}
    patients = {name: image.PatientID for name, image in images.items()}
    assert patients["augmented-0"] == patients["augmented-7"] == patients["mask-3"]
    assert patients["source-1"] == patients["source-2"] != patients["mask-3"]
    # The anatomies differ where they were augmented, so they do not share a geometry.
    for key in ("StudyInstanceUID", "FrameOfReferenceUID"):
        assert len({image[key].value for image in images.values()}) == len(images)
