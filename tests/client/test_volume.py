"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from maisi_client import InvalidRequest, Volume
from maisi_client._atomic import atomic

IMAGE = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([2.0, 2, 2, 1]))


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii"])
def test_save_writes_the_volume_and_its_report(tmp_path: Path, name: str) -> None:
    report = Volume(IMAGE, {"seed": 3, "synthetic": True}).save(tmp_path / name)
    assert report == tmp_path / "scan.json"
    assert json.loads(report.read_text()) == {"seed": 3, "synthetic": True}
    assert np.array_equal(nib.load(tmp_path / name).get_fdata(), IMAGE.get_fdata())
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "scan.json"])


def test_same_volume_same_bytes(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        Volume(IMAGE, {}).save(tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_failure_leaves_the_old_files(tmp_path: Path) -> None:
    Volume(IMAGE, {"seed": 1}).save(tmp_path / "scan.nii")
    before = (tmp_path / "scan.nii").read_bytes()
    with pytest.raises(TypeError):
        Volume(IMAGE, {"seed": object()}).save(tmp_path / "scan.nii")
    assert (tmp_path / "scan.nii").read_bytes() == before
    assert json.loads((tmp_path / "scan.json").read_text()) == {"seed": 1}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("number", [0, 1])  # of the file that cannot be written
def test_files_are_of_one_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    Volume(IMAGE, {"seed": 1}, IMAGE).save(tmp_path / "scan.nii")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    save, left = nib.save, [number]

    def full(image: Any, path: Path) -> None:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        save(image, path)

    monkeypatch.setattr(nib, "save", full)
    other = nib.Nifti1Image(np.asarray(IMAGE.dataobj) + 1, IMAGE.affine)
    with pytest.raises(OSError, match="No space") as caught:
        Volume(other, {"seed": 2}, other).save(tmp_path / "scan.nii")
    names = ["scan_mask.nii.gz", "scan.nii"]
    assert caught.value.filename == os.fspath(tmp_path / names[number])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_interrupt_leaves_no_draft(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "scan.nii") as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["scan.mha", "scan", ".nii.gz", "scan.json"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"must end in \.nii\.gz or \.nii"):
        Volume(IMAGE, {}).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Volume(IMAGE, {}).save(tmp_path / "no" / "scan.nii")


@pytest.mark.parametrize(
    ("image", "report"),
    [
        ("images/a.nii.gz", "reports/a.json"),
        ("images/a_0000.nii.gz", "reports/a_0000.json"),
        ("imagesTr/a.nii.gz", "reports/a.json"),
        ("imagesTr/a_0000.nii.gz", "reports/a.json"),
        ("imagesTr/a_0000_0000.nii.gz", "reports/a_0000.json"),
        ("unfaithful/imagesTr/a_0000.nii.gz", "unfaithful/reports/a.json"),
        ("sub-a/anat/sub-a_T1w.nii.gz", "sub-a/anat/sub-a_T1w.json"),
    ],
)
def test_a_report_is_found_where_its_layout_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: str, report: str
) -> None:
    for file in (image, report):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    nib.save(IMAGE, tmp_path / image)
    (tmp_path / report).write_text('{"seed": 7}')
    assert Volume.load(tmp_path / image).report == {"seed": 7}
    monkeypatch.chdir((tmp_path / image).parent)
    assert Volume.load(Path(image).name).report == {"seed": 7}


@pytest.mark.parametrize("rows", [("a", "a_0000"), ("a_0000",)])
@pytest.mark.parametrize("channel", ["", "_0000"])  # of MSD, of nnU-Net
def test_rows_that_look_like_channels_have_their_own_reports(
    tmp_path: Path, rows: tuple[str, ...], channel: str
) -> None:
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "reports").mkdir()
    for row in rows:
        nib.save(IMAGE, tmp_path / "imagesTr" / f"{row}{channel}.nii.gz")
        (tmp_path / "reports" / f"{row}.json").write_text(json.dumps({"name": row}))
    for row in rows:
        image = tmp_path / "imagesTr" / f"{row}{channel}.nii.gz"
        assert Volume.load(image).report == {"name": row}


def test_a_report_elsewhere_is_named(tmp_path: Path) -> None:
    nib.save(IMAGE, tmp_path / "scan.nii")
    (tmp_path / "other.json").write_text('{"seed": 5}')
    with pytest.raises(InvalidRequest, match=r"report '.*scan\.json' of the volume does not exist"):
        Volume.load(tmp_path / "scan.nii")
    assert Volume.load(tmp_path / "scan.nii", report=tmp_path / "other.json").report["seed"] == 5
    with pytest.raises(InvalidRequest, match=r"report '.*no\.json' of the volume does not exist"):
        Volume.load(tmp_path / "scan.nii", report=tmp_path / "no.json")


def test_a_mask_of_a_volume_before_is_not_taken(tmp_path: Path) -> None:
    labels = nib.Nifti1Image(np.ones(IMAGE.shape, np.uint8), IMAGE.affine)
    digests = {"image": "0", "used_mask": "0"}
    Volume(IMAGE, {"sha256": digests}, labels).save(tmp_path / "scan.nii.gz")
    assert Volume.load(tmp_path / "scan.nii.gz").mask is not None
    Volume(IMAGE, {"sha256": {"image": "0"}}).save(tmp_path / "scan.nii.gz")
    assert (tmp_path / "scan_mask.nii.gz").exists()
    assert Volume.load(tmp_path / "scan.nii.gz").mask is None
