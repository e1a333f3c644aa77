"""DICOM: voxels where the NIfTI has them, conformance to the standard, and masks read back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from highdicom.sr import CodedConcept
from maisi_client import (
    Client,
    InvalidRequest,
    MaisiError,
    MaskError,
    Row,
    Volume,
    make_dataset,
    save_dicom,
    send_dicom,
)
from maisi_client._grid import same_grid
from maisi_client._mask import load_greys, load_mask
from maisi_client._request import prepare
from numpy.typing import NDArray

from tests.client.affines import oblique
from tests.client.command import maisi
from tests.client.dicom.volumes import CT, REPORT, SHAPE, SIZES, lacking, mask_of, read, volume
from tests.docker import tools


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "ILA", "SPL"])
@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_voxels_are_where_the_nifti_has_them(tmp_path: Path, codes: str, degrees: float) -> None:
    turn = np.deg2rad(degrees / 2)  # oblique about two axes
    about_z = np.eye(4)
    about_z[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    ct = volume(about_z @ oblique(codes, SIZES, degrees))
    ct.image.header.set_xyzt_units("mm")
    ct.save(tmp_path / "ct.nii.gz")
    save_dicom(ct, tmp_path / "series", mask=mask_of(ct.image))

    reader = sitk.ImageSeriesReader()
    folder, of_slices = str(tmp_path / "series"), None
    for uid in reader.GetGDCMSeriesIDs(folder):
        names = reader.GetGDCMSeriesFileNames(folder, uid)
        of_slices = names if len(names) > 1 else of_slices
    assert of_slices
    reader.SetFileNames(of_slices)
    series = reader.Execute()
    nifti = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "ct.nii.gz")), "LPS")
    assert series.GetSize() == nifti.GetSize()
    assert series.GetSpacing() == pytest.approx(nifti.GetSpacing(), abs=1e-4)
    assert series.GetOrigin() == pytest.approx(nifti.GetOrigin(), abs=1e-4)
    assert series.GetDirection() == pytest.approx(nifti.GetDirection(), abs=1e-5)
    assert np.array_equal(sitk.GetArrayFromImage(series), sitk.GetArrayFromImage(nifti))


@pytest.mark.parametrize("report", [CT, REPORT, {**CT, "anatomy": {"liver": 0.5}}])
def test_every_object_is_complete_synthetic_and_anonymous(
    tmp_path: Path, report: dict[str, Any]
) -> None:
    ct = volume(oblique("LPS", SIZES), **report)
    files = save_dicom(ct, tmp_path / "series", mask=mask_of(ct.image))
    names = [*(f"{n:04d}.dcm" for n in range(1, 15)), "mask.dcm", "structures.dcm"]
    assert [path.name for path in files] == names
    assert sorted(files) == sorted((tmp_path / "series").iterdir())
    *slices, segmentation, structures = datasets = read(files)
    assert lacking(slices[0]) == lacking(segmentation) == lacking(structures) == []
    assert len({dataset.SOPInstanceUID for dataset in datasets}) == 16
    assert len({dataset.SeriesInstanceUID for dataset in datasets}) == 3
    assert len({dataset.SeriesNumber for dataset in datasets}) == 3
    for dataset in datasets:
        assert dataset.SyntheticData == "YES"
        assert (str(dataset.PatientName), dataset.PatientBirthDate) == ("Synthetic^MAISI", "")
        assert dataset.PatientID == datasets[0].PatientID
        assert dataset.StudyInstanceUID == datasets[0].StudyInstanceUID
        assert dataset.FrameOfReferenceUID == datasets[0].FrameOfReferenceUID
        assert dataset.Manufacturer == "maisi-client"
    heights = [float(dataset.SliceLocation) for dataset in slices]
    assert heights == sorted(heights)
    assert slices[0].Modality == {"ct": "CT", "mri_t1": "MR"}[report["modality"]]
    assert f"seed {report['seed']}" in slices[0].ImageComments
    assert slices[0].DerivationDescription.endswith("from noise, a label mask")
    if report["modality"] == "ct":
        assert (slices[0].RescaleIntercept, slices[0].RescaleSlope) == (0, 1)
    referenced = segmentation.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == slices[0].SeriesInstanceUID
    assert len(referenced.ReferencedInstanceSequence) == 14
    kinds = {segment.SegmentAlgorithmType for segment in segmentation.SegmentSequence}
    assert kinds == {"AUTOMATIC" if "anatomy" in report else "MANUAL"}


@pytest.mark.parametrize("report", [CT, REPORT, {**CT, "augmented": True}])
def test_dciodvfy_finds_no_error(tmp_path: Path, report: dict[str, Any]) -> None:
    dciodvfy = tools.debian_program("usr/bin/dciodvfy", "dicom3tools")
    ct = volume(oblique("PSR", SIZES), **report)
    files = save_dicom(ct, tmp_path / "series", mask=mask_of(ct.image))
    for path in (files[0], *files[-2:]):
        result = subprocess.run([dciodvfy, "-new", path], capture_output=True, text=True)
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error")]
        # Synthetic Data is younger than the tool of most distributions.
        assert [line for line in errors if "(0008,001c)" not in line] == []


@pytest.mark.parametrize("codes", ["RAS", "PSR"])
def test_a_mask_comes_back_with_its_ids(tmp_path: Path, codes: str) -> None:
    ct = volume(oblique(codes, SIZES))
    mask = mask_of(ct.image)
    *_, file, _ = save_dicom(ct, tmp_path / "series", mask=mask)
    original, back = load_mask(mask), load_mask(file)
    assert np.array_equal(back.values, original.values)
    assert back.spacing == pytest.approx(original.spacing, abs=1e-4)
    (one, other) = (nib.as_closest_canonical(image.image) for image in (original, back))
    assert np.allclose(one.affine, other.affine, atol=1e-4)

    # Without the images beside it, it ends where the labels end; what is labelled stays in place.
    alone = load_mask(shutil.copy(file, tmp_path / "alone.dcm"))
    assert np.count_nonzero(alone.values) == np.count_nonzero(original.values)
    assert alone.values.shape[2] < original.values.shape[2]
    centres = []
    for image in (original, alone):
        canonical = nib.as_closest_canonical(image.image)
        voxels = np.argwhere(np.asanyarray(canonical.dataobj) == 117)
        centres.append(nib.affines.apply_affine(canonical.affine, voxels))
    assert np.allclose(*centres, atol=1e-3)


def test_segments_are_coded(tmp_path: Path) -> None:
    ct = volume()
    *_, file, _ = save_dicom(ct, tmp_path / "series", mask=mask_of(ct.image))
    segments = {s.SegmentLabel: s for s in pydicom.dcmread(file).SegmentSequence}
    property_type = segments["left hippocampus"].SegmentedPropertyTypeCodeSequence[0]
    assert (property_type.CodeValue, property_type.CodingSchemeDesignator) == ("5366008", "SCT")
    assert property_type.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    cyst = segments["right kidney cyst"].AnatomicRegionSequence[0]
    assert cyst.CodeMeaning == "Kidney"
    assert cyst.AnatomicRegionModifierSequence[0].CodeMeaning == "Right"
    (unknown,) = segments["label 250"].SegmentedPropertyTypeCodeSequence
    assert (unknown.CodingSchemeDesignator, unknown.CodeValue) == ("99MAISI", "250")
    lesion = segments["white matter hyperintensity"]
    assert lesion.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert lesion.AnatomicRegionSequence[0].CodeMeaning == "Cerebral white matter"

    *_, file, _ = save_dicom(
        ct, tmp_path / "named", mask=mask_of(ct.image), labels={250: "liver", 230: "gizmo"}
    )
    named = {s.SegmentLabel: s for s in pydicom.dcmread(file).SegmentSequence}
    assert named["liver"].SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert named["gizmo"].SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99MAISI"
    assert 250 in load_mask(file).values and 1 not in load_mask(file).values


def test_same_content_same_uids_and_a_mask_is_a_patient(tmp_path: Path) -> None:
    ct = volume(oblique("RAS", SIZES))
    mask = mask_of(ct.image)
    ct.save(tmp_path / "ct.nii.gz")
    first = save_dicom(ct, tmp_path / "1", mask=mask)
    second = save_dicom(Volume.load(tmp_path / "ct.nii.gz"), tmp_path / "2", mask=mask)
    assert [a.read_bytes() for a in first[:-2]] == [b.read_bytes() for b in second[:-2]]
    assert first[-1].read_bytes() == second[-1].read_bytes()
    assert read(first)[-2].SOPInstanceUID == read(second)[-2].SOPInstanceUID

    other = volume(ct.image.affine, seed=8)
    another = read(save_dicom(other, tmp_path / "3", mask=mask))[0]
    bare = read(save_dicom(ct, tmp_path / "4"))[0]
    sourced = read(save_dicom(volume(strength=0.6), tmp_path / "5"))[0]
    assert sourced.DerivationDescription.endswith("from noise, a source volume")
    one = read(first)[0]
    shared = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID")
    assert [one[k].value for k in shared] == [another[k].value for k in shared]
    assert one.SeriesInstanceUID != another.SeriesInstanceUID
    assert one.SeriesNumber != another.SeriesNumber
    assert all(one[k].value != bare[k].value for k in (*shared, "SeriesInstanceUID"))


def test_a_group_is_a_patient(tmp_path: Path) -> None:
    """Its masks differ where they were augmented, and are studies; no UID is of two patients."""
    mask = mask_of(volume().image)
    moved_mask = nib.Nifti1Image(np.roll(np.asarray(mask.dataobj), 1, axis=0), mask.affine)

    def first(name: str, mask: nib.Nifti1Image | None, **report: Any) -> pydicom.Dataset:
        ct = replace(volume(**report), image=image)
        return read(save_dicom(ct, tmp_path / name, mask=mask))[0]

    image = volume().image
    one = first("1", mask, group="mask-0")
    augmented = first("2", moved_mask, group="mask-0", augmented=True)
    sourced = first("3", None, group="mask-0", strength=0.5)
    assert one.PatientID == augmented.PatientID == sourced.PatientID
    uids = ("StudyInstanceUID", "FrameOfReferenceUID", "SeriesInstanceUID", "SOPInstanceUID")
    for key in (*uids, "StudyID"):
        assert len({str(other[key].value) for other in (one, augmented, sourced)}) == 3
    again = first("4", mask, group="mask-0", seed=8)
    assert [again[key].value for key in uids[:2]] == [one[key].value for key in uids[:2]]

    others = first("5", mask, group="mask-1"), first("6", mask)
    for key in ("PatientID", "StudyID", *uids):
        assert len({str(other[key].value) for other in (one, *others)}) == 3


def foreign(
    path: Path, segments: dict[str, tuple[CodedConcept, str | None]], kind: str = "BINARY"
) -> Path:
    """Write a Segmentation of another program: a slab for each segment, type and side coded."""
    ct = volume(np.diag([*SIZES, 1]))
    images = read(save_dicom(ct, path.with_suffix("")))
    planes = np.zeros((14, 10, 12), np.uint8)
    described = []
    for number, (label, (type_, side)) in enumerate(segments.items(), 1):
        planes[2 * number : 2 * number + 2] = number
        segment = hd.seg.SegmentDescription(
            number,
            label,
            CodedConcept("91723000", "SCT", "Anatomical Structure"),
            deepcopy(type_),
            "MANUAL",
        )
        if side:
            value = {"Left": "7771000", "Right": "24028007"}[side]
            (coded,) = segment.SegmentedPropertyTypeCodeSequence
            coded.SegmentedPropertyTypeModifierCodeSequence = [CodedConcept(value, "SCT", side)]
        described.append(segment)
    pixels: NDArray[Any] = planes if kind != "FRACTIONAL" else (planes == 1).astype(np.float32)
    hd.seg.Segmentation(
        images, pixels, kind, described, hd.UID(), 2, hd.UID(), 1, "else", "else", "1", "1"
    ).save_as(path)
    return path


KIDNEY = CodedConcept("64033007", "SCT", "Kidney")
LIVER_OF_OLD = CodedConcept("T-62000", "SRT", "Liver")
TISSUE = CodedConcept("85756007", "SCT", "Tissue")


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_others_segments_get_maisis_ids_by_code_or_name(tmp_path: Path, kind: str) -> None:
    segments = {
        "a": (KIDNEY, "Left"),
        "b": (KIDNEY, "Right"),
        "c": (LIVER_OF_OLD, None),
        # As TotalSegmentator's table has it; PS3.16 calls this code the right one.
        "d": (CodedConcept("29700009", "SCT", "Subclavian artery"), "Left"),
        "Spleen": (TISSUE, None),
    }
    file = foreign(tmp_path / "other.dcm", segments, kind)
    shutil.copy(file, tmp_path / "other")  # to its images
    mask = load_mask(tmp_path / "other" / "other.dcm")
    assert mask.values[0, 0].tolist() == [0, 0, 14, 14, 5, 5, 1, 1, 123, 123, 3, 3, 0, 0]
    with pytest.raises(InvalidRequest, match="vocabulary is 'totalsegmentator-v2'; the mask's co"):
        prepare(file, {"vocabulary": "totalsegmentator-v2"})
    assert prepare(file, {"vocabulary": "maisi"}).labels is not None


def test_numbers_are_ids_where_nothing_is_known(tmp_path: Path) -> None:
    file = foreign(tmp_path / "other.dcm", {"x": (TISSUE, None), "y": (TISSUE, "Left")})
    assert np.unique(load_mask(file).values).tolist() == [1, 2]
    prepare(file, {"vocabulary": "totalsegmentator-v2"})

    mixed = foreign(tmp_path / "mixed.dcm", {"x": (TISSUE, None), "k": (KIDNEY, "Left")})
    with pytest.raises(MaskError, match="segment 1, 'x', that is not one of MAISI's labels"):
        load_mask(mixed)


def test_what_is_no_label_map_is_refused(tmp_path: Path) -> None:
    fractional = foreign(tmp_path / "f.dcm", {"x": (TISSUE, None)}, "FRACTIONAL")
    with pytest.raises(MaskError, match=r"f\.dcm' is a fractional Segmentation; BINARY or"):
        load_mask(fractional)
    with pytest.raises(
        MaskError, match=r"0001\.dcm' is DICOM of CT Image Storage; a DICOM file must be"
    ):
        load_mask(tmp_path / "f" / "0001.dcm")

    both = foreign(tmp_path / "both.dcm", {"x": (TISSUE, None), "y": (TISSUE, None)})
    short_file = tmp_path / "cut.dcm"
    content = both.read_bytes()
    for length in (140, 600, len(content) - 40):
        short_file.write_bytes(content[:length])
        with pytest.raises(MaskError, match=r"mask '.*cut\.dcm' "):
            load_mask(short_file)

    overlapping = pydicom.dcmread(both)
    frames = overlapping.PerFrameFunctionalGroupsSequence
    at = frames[0].PlanePositionSequence
    frames[-1].PlanePositionSequence = at
    overlapping.save_as(both)
    with pytest.raises(MaskError, match=r"both\.dcm' is not a label mask on a regular grid: "):
        load_mask(both)
    with pytest.raises(InvalidRequest, match="is not an image that can be read"):
        load_greys(tmp_path / "f" / "0001.dcm")


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    def refused(sentence: str, ct: Volume, **arguments: Any) -> None:
        with pytest.raises(InvalidRequest, match=sentence):
            save_dicom(ct, tmp_path / "series", **arguments)
        assert list(tmp_path.iterdir()) == []

    sheared = np.diag([2.0, 2, 2, 1])
    sheared[0, 1] = 0.2
    refused(r"the volume has a sheared affine, with axes at 84\.29 degrees", volume(sheared))
    refused("the report's modality is 'pet'; ct or mri", volume(modality="pet"))
    ct = volume()
    moved_mask = nib.Nifti1Image(mask_of(ct.image).dataobj, np.diag([1.0, 1, 1.1, 1]))
    refused("the mask and the volume have different grids", ct, mask=moved_mask)
    refused("has no label", ct, mask=nib.Nifti1Image(np.zeros(SHAPE, np.uint8), np.eye(4)))
    other = replace(ct, report={**CT, "vocabulary": "maisi-124"})
    refused("the mask was sent with the vocabulary 'maisi-124'", other, mask=mask_of(ct.image))
    halves = nib.Nifti1Image(np.full(SHAPE, 0.5, np.float32), np.eye(4))
    refused("values other than whole numbers from -32768", replace(ct, image=halves))

    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(
        InvalidRequest, match="exists already; a new or an empty folder is expected"
    ):
        save_dicom(ct, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_without_the_extra_it_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ct = volume()
    *_, file, _ = save_dicom(ct, tmp_path / "series", mask=mask_of(ct.image))
    calls = {
        "highdicom": lambda: load_mask(file),
        "contourpy": lambda: save_dicom(ct, tmp_path / "new"),
        "pynetdicom": lambda: send_dicom([file], "127.0.0.1:9/A"),
    }
    for package, call in calls.items():
        with monkeypatch.context() as without:
            without.setitem(sys.modules, package, None)
            sentence = rf"needs {package}, .*: pip install 'maisi-client\[dicom\]'$"
            with pytest.raises(MaisiError, match=sentence):
                call()


def test_command(server: Any, tmp_path: Path) -> None:
    """A volume of the server becomes DICOM, and the mask read from it makes the same volume."""
    labels = np.zeros((32, 36, 40), np.uint8)
    labels[4:28, 4:30, 6:34], labels[10:16, 8:20, 10:20] = 22, 227
    mask = tmp_path / "mask.nii.gz"
    nib.save(nib.Nifti1Image(labels, oblique("LPS", (2.0, 2.0, 2.0))), mask)
    arguments = {"modality": "mri_t2", "seed": 5, "steps": 1}
    with Client(server.grpc) as client:
        ct = client.generate(mask, **arguments)
        ct.save(tmp_path / "t2.nii.gz")
        series = tmp_path / "series"
        result = maisi("dicom", tmp_path / "t2.nii.gz", "--to", series, "--mask", mask, "--json")
        assert (result.returncode, result.stderr) == (0, "")
        assert len(json.loads(result.stdout)["files"]) == 42
        rows = [Row("again", {"mask": series / "mask.dcm", **arguments})]
        assert [o.state for o in make_dataset(rows, tmp_path / "set", client)] == ["done"]
    second = tmp_path / "set" / "images" / "again.nii.gz"
    one, other = (load_greys(image) for image in (ct.image, second))
    labels_read = load_mask(tmp_path / "set" / "labels" / "again.nii.gz")
    assert np.array_equal(labels_read.values, load_mask(mask).values)
    assert np.array_equal(one.values, other.values)
    assert same_grid(*(replace(h, image=nib.as_closest_canonical(h.image)) for h in (one, other)))
    slices = read(sorted(series.glob("0*.dcm")))
    pixels = np.stack([image.pixel_array for image in slices])
    assert np.array_equal(pixels.transpose(2, 1, 0)[::-1, ::-1], one.values)
    assert slices[0].SeriesDescription == "mini mri_t2 seed 5"

    (tmp_path / "t2.json").unlink()
    alone = maisi("dicom", tmp_path / "t2.nii.gz", "--to", tmp_path / "new")
    assert (alone.returncode, alone.stderr.count("\n")) == (1, 1)
    assert "report" in alone.stderr and not (tmp_path / "new").exists()


@pytest.mark.parametrize("layout", ["plain", "nnunet", "msd", "bids"])
def test_a_volume_of_a_dataset_brings_its_report(server: Any, tmp_path: Path, layout: str) -> None:
    rows = [Row("one", {"seed": 4, "size": [32, 32, 32], "steps": 1, "modality": "mri_t1"})]
    if layout in ("nnunet", "msd"):
        labels = nib.Nifti1Image(np.full((32, 32, 32), 22, np.uint8), np.eye(4))
        nib.save(labels, tmp_path / "mask.nii.gz")
        rows = [Row("one", {"seed": 4, "steps": 1, "mask": tmp_path / "mask.nii.gz"})]
    to = tmp_path / "Dataset501_Synthetic"
    with Client(server.grpc) as client:
        list(make_dataset(rows, to, client, layout=layout))
    (image,) = (path for path in to.rglob("*.nii.gz") if "label" not in str(path))
    result = maisi("dicom", image, "--to", tmp_path / "series")
    assert (result.returncode, result.stderr) == (0, "")
    assert len(list((tmp_path / "series").iterdir())) == 32


def test_a_report_that_lies_elsewhere_is_named(tmp_path: Path) -> None:
    report = volume().save(tmp_path / "ct.nii.gz")
    report.rename(tmp_path / "moved.json")
    words = ("dicom", tmp_path / "ct.nii.gz", "--to", tmp_path / "series")
    result = maisi(*words)
    assert result.returncode == 1 and "ct.json' of the volume does not exist" in result.stderr
    result = maisi(*words, "--report", tmp_path / "moved.json")
    assert (result.returncode, result.stderr) == (0, "")
    assert "seed" in str(pydicom.dcmread(tmp_path / "series" / "0001.dcm").ImageComments)


def test_ids_of_a_mask_mean_what_they_did_when_it_was_sent(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[:3], labels[5] = 1, 3
    mask = nib.Nifti1Image(labels, np.eye(4))
    text = '<Label Key="1">spleen</Label><Label Key="3">liver</Label>'
    mask.header.extensions.append(nib.nifti1.Nifti1Extension(0, text.encode()))
    for vocabulary, planes in (("maisi", {1: 3, 3: 1}), (None, {3: 3, 1: 1})):
        ct = volume(np.eye(4), request={"vocabulary": vocabulary})
        to = tmp_path / str(vocabulary)
        save_dicom(ct, to, mask=mask)
        back = load_mask(to / "mask.dcm").values
        plane = SHAPE[1] * SHAPE[2]
        assert {id_: int((back == id_).sum()) // plane for id_ in planes} == planes
