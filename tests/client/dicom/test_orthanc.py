"""Studies sent to a real Orthanc, by C-STORE and by STOW-RS, come back as they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from maisi_client import InvalidRequest, MaisiError, send_dicom, stow_dicom
from maisi_client._mask import load_mask
from nibabel import save

from tests.client.affines import oblique
from tests.client.command import maisi
from tests.client.dicom import orthanc as orthancs
from tests.client.dicom.orthanc import Orthanc
from tests.client.dicom.volumes import CT, REPORT, SIZES, dice, mask_of, rasterised, volume


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    orthanc = orthancs.start(tmp_path_factory.mktemp("orthanc"))
    yield orthanc
    orthanc.end()


def studies(folder: Path, report: dict[str, Any]) -> Path:
    """Write an oblique volume, its report and its mask; return the path of the volume."""
    one = volume(oblique("LPS", SIZES, 15), **report)
    one.image.header.set_xyzt_units("mm")
    path = folder / "volume.nii.gz"
    one.save(path)
    save(mask_of(one.image), folder / "volume_mask.nii.gz")
    return path


@pytest.mark.parametrize("report", [CT, REPORT], ids=["ct", "mr"])
@pytest.mark.parametrize("way", ["send", "stow"])
def test_a_study_comes_back(
    orthanc: Orthanc, tmp_path: Path, way: str, report: dict[str, Any]
) -> None:
    path = studies(tmp_path, {**report, "seed": len(way)})
    before = orthanc.instances()
    address = {"send": orthanc.node, "stow": orthanc.web}[way]
    words = ("dicom", path, "--mask", tmp_path / "volume_mask.nii.gz", f"--{way}", address)
    result = maisi(*words, "--json", "--to", tmp_path / "dicom")
    assert (result.returncode, result.stderr) == (0, "")
    (sent,) = json.loads(result.stdout)["sent"]
    assert str({"send": orthanc.dicom, "stow": orthanc.http}[way]) in sent
    assert orthancs.PASSWORD not in result.stdout

    originals = [pydicom.dcmread(file) for file in sorted((tmp_path / "dicom").iterdir())]
    series = {one.SeriesInstanceUID for one in originals}
    files = orthanc.fetched(tmp_path / "fetched", series)
    assert len(orthanc.instances()) - len(before) == len(files) == len(originals) == 16
    datasets = {file: pydicom.dcmread(file) for file in files}
    uids = {one.SOPInstanceUID for one in originals}
    assert {one.SOPInstanceUID for one in datasets.values()} == uids
    for one in datasets.values():
        assert (one.SyntheticData, str(one.PatientName)) == ("YES", "Synthetic^MAISI")
        assert one.PatientID.startswith("MAISI-") and not one.PatientBirthDate

    by_kind: dict[str, list[Path]] = {}
    for file, one in datasets.items():
        by_kind.setdefault(one.Modality, []).append(file)
    assert by_kind.keys() == {{"ct": "CT", "mri_t1": "MR"}[report["modality"]], "SEG", "RTSTRUCT"}
    (segmentation,), (structures,) = by_kind.pop("SEG"), by_kind.pop("RTSTRUCT")
    slices = sorted(*by_kind.values(), key=lambda file: int(datasets[file].InstanceNumber))
    image = sitk.ReadImage([str(file) for file in slices])
    nifti = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    assert image.GetOrigin() == pytest.approx(nifti.GetOrigin(), abs=1e-4)
    assert image.GetSpacing() == pytest.approx(nifti.GetSpacing(), abs=1e-4)
    assert image.GetDirection() == pytest.approx(nifti.GetDirection(), abs=1e-5)
    assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(nifti))

    mask, original = load_mask(segmentation), load_mask(tmp_path / "volume_mask.nii.gz")
    assert np.array_equal(mask.values, original.values)
    assert mask.spacing == pytest.approx(original.spacing, abs=1e-4)
    assert np.allclose(mask.affine, original.affine, atol=1e-4)
    regions = rasterised(datasets[structures], [datasets[file] for file in slices])
    planes = original.values[::-1, ::-1].transpose(2, 1, 0)
    assert regions.keys() == set(np.unique(planes)) - {0}
    assert min(dice(region, planes == id_) for id_, region in regions.items()) == 1

    # The same study is the same objects: sent again, nothing is added.
    count = len(orthanc.instances())
    assert maisi(*words).returncode == 0
    assert len(orthanc.instances()) == count


def test_what_orthanc_refuses_is_said(orthanc: Orthanc, tmp_path: Path) -> None:
    path = studies(tmp_path, CT)
    result = maisi("dicom", path, "--to", tmp_path / "dicom")
    assert result.returncode == 0
    files = sorted((tmp_path / "dicom").iterdir())
    count = len(orthanc.instances())
    node = orthanc.node.replace(orthancs.TITLE, "OTHER")
    with pytest.raises(InvalidRequest) as refused:
        send_dicom(files, node)
    assert str(refused.value) == (
        f"OTHER at 127.0.0.1:{orthanc.dicom} refuses the association with MAISI: called AE title"
        f" not recognised; 0 of {len(files)} objects were stored"
    )
    with pytest.raises(InvalidRequest) as refused:
        stow_dicom(files, orthanc.web.replace(orthancs.PASSWORD, "guess"))
    assert "/studies refuses the user, with HTTP 401; put user" in str(refused.value)
    assert f"0 of {len(files)} objects" in str(refused.value)
    assert "guess" not in str(refused.value)
    with pytest.raises(MaisiError, match="/nowhere/studies answers HTTP 404 Not Found; before"):
        stow_dicom(files, orthanc.web.replace("dicom-web", "nowhere"))
    assert len(orthanc.instances()) == count


@pytest.mark.parametrize("accepted", [False, True])
def test_a_labelmap_comes_back_or_is_refused(tmp_path: Path, accepted: bool) -> None:
    path = studies(tmp_path, CT)
    (tmp_path / "archive").mkdir()
    orthanc = orthancs.start(tmp_path / "archive", UnknownSopClassAccepted=accepted)
    try:
        words = ("--labelmap", "--to", tmp_path / "dicom", "--send", orthanc.node)
        result = maisi("dicom", path, *words)
        if result.returncode and not accepted:  # Orthanc before 1.12 does not know the class
            assert result.stderr.count("\n") == 1
            refusal = "does not accept Label Map Segmentation Storage; 0 of 16 objects were stored"
            assert f"ARCHIVE at 127.0.0.1:{orthanc.dicom} {refusal}" in result.stderr
            assert orthanc.instances() == []
            return
        assert (result.returncode, result.stderr) == (0, "")
        sent = pydicom.dcmread(tmp_path / "dicom" / "mask.dcm")
        (of_images,) = sent.ReferencedSeriesSequence
        series = {sent.SeriesInstanceUID, of_images.SeriesInstanceUID}
        files = orthanc.fetched(tmp_path / "fetched", series)
        assert (len(orthanc.instances()), len(files)) == (16, 15)
    finally:
        orthanc.end()
    (back,) = (
        file for file in files if pydicom.dcmread(file).SOPInstanceUID == sent.SOPInstanceUID
    )
    assert pydicom.dcmread(back) == sent and sent.SegmentationType == "LABELMAP"
    mask, original = load_mask(back), load_mask(tmp_path / "volume_mask.nii.gz")
    assert np.array_equal(mask.values, original.values)
    assert np.allclose(mask.affine, original.affine, atol=1e-4)
