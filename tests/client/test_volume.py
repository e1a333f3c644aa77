"""Files that appear whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from maisi_client import InvalidRequest, Volume
from maisi_client._files import atomic

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
