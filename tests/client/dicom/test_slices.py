"""The distance of the slices of a Segmentation that does not have it itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from maisi_client import Client, MaskError, Volume, save_dicom
from maisi_client._mask import load_mask
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from tests.client.affines import oblique

SHAPE, SIZES = (10, 9, 12), (1.5, 1.25, 3.0)
REPORT = {"modality": "ct", "variant": "rflow-ct", "seed": 1}
CHOICES = {
    "one": [7],
    "every second": [2, 4, 6, 8],
    "two, far apart": [3, 8],
    "all": list(range(12)),
    "contiguous": [5, 6, 7],
}


@pytest.fixture(params=["RAS", "oblique"])
def series(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Write a CT series of 12 slices, 3 mm apart."""
    affine = oblique("RAS", SIZES, 0 if request.param == "RAS" else 25)
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), affine)
    save_dicom(Volume(image, REPORT), tmp_path / "series")
    return tmp_path / "series"


def segmentation(
    folder: Path,
    slices: list[int],
    kind: str = "BINARY",
    edit: Callable[[Dataset], None] = lambda measures: None,
) -> Path:
    """Write a Segmentation of some slices into the folder of its series, and edit its measures."""
    images = [pydicom.dcmread(path) for path in sorted(folder.glob("0*.dcm"))]
    planes = np.zeros((len(images), *SHAPE[1::-1]), np.uint8)
    planes[slices, 2:6, 3:7] = 1
    liver = hd.seg.SegmentDescription(
        1, "Liver", codes.SCT.AnatomicalStructure, codes.SCT.Liver, "MANUAL"
    )
    dataset = hd.seg.Segmentation(
        images, planes, kind, [liver], hd.UID(), 2, hd.UID(), 1, "else", "else", "1", "1"
    )
    for group in (
        dataset.SharedFunctionalGroupsSequence[0],
        *dataset.PerFrameFunctionalGroupsSequence,
    ):
        if "PixelMeasuresSequence" in group:
            edit(group.PixelMeasuresSequence[0])
    dataset.save_as(folder / "seg.dcm")
    return folder / "seg.dcm"


def without(*names: str) -> Callable[[Dataset], None]:
    def edit(measures: Dataset) -> None:
        for name in names:
            if name in measures:
                delattr(measures, name)

    return edit


SILENT = without("SpacingBetweenSlices")


def volume_of(mask: Any) -> float:
    return float((mask.values > 0).sum() * np.prod(mask.spacing))


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("slices", CHOICES.values(), ids=CHOICES)
def test_the_images_say_it(series: Path, slices: list[int], kind: str) -> None:
    mask = load_mask(segmentation(series, slices, kind, SILENT))
    assert mask.spacing == pytest.approx(SIZES)
    assert mask.values.shape == SHAPE
    assert np.flatnonzero(mask.values.any(axis=(0, 1))).tolist() == slices
    assert not mask.warnings
    from_slices = load_mask(segmentation(series, slices, kind))
    assert np.array_equal(from_slices.values, mask.values)
    assert np.allclose(from_slices.affine, mask.affine, atol=1e-4)


def test_images_are_believed_before_what_a_segmentation_says(series: Path) -> None:
    def wrong(measures: Dataset) -> None:
        measures.SpacingBetweenSlices = 1.0

    mask = load_mask(segmentation(series, [2, 4, 6], edit=wrong))
    assert mask.spacing == pytest.approx(SIZES)


def test_images_of_many_frames_say_it(series: Path) -> None:
    """An enhanced CT: one file, with a position for each frame."""
    path = segmentation(series, [2, 6], edit=SILENT)
    images = [pydicom.dcmread(image) for image in sorted(series.glob("0*.dcm"))]
    enhanced = Dataset()
    enhanced.file_meta = images[0].file_meta
    enhanced.SOPInstanceUID = images[0].SOPInstanceUID
    enhanced.SeriesInstanceUID = images[0].SeriesInstanceUID
    orientation = Dataset()
    orientation.ImageOrientationPatient = images[0].ImageOrientationPatient
    shared = Dataset()
    shared.PlaneOrientationSequence = [orientation]
    enhanced.SharedFunctionalGroupsSequence = [shared]
    enhanced.PerFrameFunctionalGroupsSequence = []
    for image in images:
        position, frame = Dataset(), Dataset()
        position.ImagePositionPatient = image.ImagePositionPatient
        frame.PlanePositionSequence = [position]
        enhanced.PerFrameFunctionalGroupsSequence.append(frame)
    for image in series.glob("0*.dcm"):
        image.unlink()
    enhanced.save_as(series / "enhanced.dcm", enforce_file_format=True)
    segments = pydicom.dcmread(path)
    one = Dataset()
    one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = "1.2", enhanced.SOPInstanceUID
    segments.ReferencedSeriesSequence[0].ReferencedInstanceSequence = [one]
    segments.save_as(path)
    mask = load_mask(path)
    assert mask.spacing == pytest.approx(SIZES) and mask.values.shape == SHAPE


@pytest.mark.parametrize("slices", [CHOICES["one"], CHOICES["every second"]])
@pytest.mark.parametrize("absent", ["all", "one"])
def test_without_the_images_it_is_their_thickness_and_a_warning(
    series: Path, slices: list[int], absent: str
) -> None:
    path = segmentation(series, slices, edit=SILENT)
    for image in sorted(series.glob("0*.dcm"))[:: 1 if absent == "all" else 12]:
        image.unlink()
    mask = load_mask(path)
    assert mask.spacing == pytest.approx(SIZES)
    assert volume_of(mask) == pytest.approx(len(slices) * 16 * np.prod(SIZES))
    (warning,) = mask.warnings
    assert "no SpacingBetweenSlices" in warning and "3.0 mm" in warning


def test_a_thickness_that_does_not_fit_is_refused(series: Path) -> None:
    def thick(measures: Dataset) -> None:
        SILENT(measures)
        measures.SliceThickness = 5.0  # slices overlap

    path = segmentation(series, [5, 6, 7], edit=thick)
    assert load_mask(path).spacing == pytest.approx(SIZES)
    for image in series.glob("0*.dcm"):
        image.unlink()
    with pytest.raises(MaskError, match="is not a label mask on a regular grid"):
        load_mask(path)


def test_what_nothing_says_is_refused(series: Path) -> None:
    path = segmentation(series, [7], edit=without("SpacingBetweenSlices", "SliceThickness"))
    assert load_mask(path).values.shape == SHAPE
    alone = series.parent / "seg.dcm"
    shutil.copy(path, alone)
    with pytest.raises(
        MaskError, match="neither the file nor images in its folder have a slice spacing"
    ):
        load_mask(alone)


def test_images_at_irregular_distances_are_refused(series: Path) -> None:
    path = segmentation(series, [2, 4], edit=SILENT)
    last = sorted(series.glob("0*.dcm"))[-1]
    image = pydicom.dcmread(last)
    position = np.array(image.ImagePositionPatient, float)
    first = pydicom.dcmread(series / "0001.dcm")
    image.ImagePositionPatient = list(
        position + 0.4 * (position - np.array(first.ImagePositionPatient)) / 11
    )
    image.save_as(last)
    with pytest.raises(MaskError, match="are not evenly spaced"):
        load_mask(path)


@pytest.mark.parametrize("distance", [1.0, 5.0, 3.0])
def test_another_series_of_the_segmentation_does_not_count(series: Path, distance: float) -> None:
    """A second series with an image at each frame is equally good, so neither has the distance."""
    path = segmentation(series, [2, 4, 6])
    segments = pydicom.dcmread(path)
    uid = hd.UID()
    references = []
    for number, image in enumerate(sorted(series.glob("0*.dcm"))):
        other = pydicom.dcmread(image)
        cosines = np.array(other.ImageOrientationPatient, float)
        first = np.array(pydicom.dcmread(series / "0001.dcm").ImagePositionPatient, float)
        normal = np.cross(cosines[:3], cosines[3:])
        other.ImagePositionPatient = list(
            first + (number * distance + 0.5 * (distance == 3)) * normal
        )
        other.SeriesInstanceUID = uid
        other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = hd.UID()
        other.save_as(series / f"other{number}.dcm")
        reference = Dataset()
        reference.ReferencedSOPClassUID = other.SOPClassUID
        reference.ReferencedSOPInstanceUID = other.SOPInstanceUID
        references.append(reference)
    item = Dataset()
    item.SeriesInstanceUID, item.ReferencedInstanceSequence = uid, references
    segments.ReferencedSeriesSequence.append(item)
    segments.save_as(path)
    mask = load_mask(path)
    assert mask.spacing == pytest.approx(SIZES)
    assert volume_of(mask) == pytest.approx(3 * 16 * np.prod(SIZES))


@pytest.mark.parametrize("has_spacing", [True, False])
def test_positions_may_be_rounded(tmp_path: Path, has_spacing: bool) -> None:
    affine = np.diag([1.5, 1.25, 0.6667, 1.0])
    image = nib.Nifti1Image(np.zeros((10, 9, 40), np.int16), affine)
    save_dicom(Volume(image, REPORT), tmp_path / "series")
    path = segmentation(tmp_path / "series", [3, 7, 8, 30], edit=_same if has_spacing else SILENT)
    for file in (tmp_path / "series").glob("*.dcm"):
        dataset = pydicom.dcmread(file)
        for frame in [dataset, *dataset.get("PerFrameFunctionalGroupsSequence", [])]:
            where = frame if "ImagePositionPatient" in frame else None
            if "PlanePositionSequence" in frame:
                where = frame.PlanePositionSequence[0]
            if where is not None:
                where.ImagePositionPatient = [
                    round(float(v), 2) for v in where.ImagePositionPatient
                ]
        dataset.save_as(file)
    mask = load_mask(path)
    assert mask.spacing == pytest.approx((1.5, 1.25, 0.6667), abs=2e-3)
    assert mask.values.shape == (10, 9, 40)


def _same(measures: Dataset) -> None:
    pass


def test_a_localizer_of_the_series_does_not_count(series: Path) -> None:
    path = segmentation(series, [2, 4], edit=SILENT)
    localizer = pydicom.dcmread(series / "0001.dcm")
    cosines = np.array(localizer.ImageOrientationPatient, float)
    localizer.ImageOrientationPatient = [*cosines[:3], *np.cross(cosines[:3], cosines[3:])]
    localizer.SOPInstanceUID = localizer.file_meta.MediaStorageSOPInstanceUID = hd.UID()
    localizer.save_as(series / "localizer.dcm")
    assert load_mask(path).values.shape == SHAPE


def test_the_warning_is_in_the_report(server: Any, tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((32, 32, 40), np.int16), np.diag([2.0, 2, 3, 1]))
    labels = np.zeros(image.shape, np.uint8)
    labels[8:24, 8:24, 4:36] = 22
    volume = Volume(image, REPORT, nib.Nifti1Image(labels, image.affine))
    save_dicom(volume, tmp_path / "series")
    segments = pydicom.dcmread(tmp_path / "series" / "mask.dcm")
    SILENT(segments.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0])
    segments.save_as(tmp_path / "mask.dcm")
    with Client(server.grpc) as client:
        for report in (
            client.check(tmp_path / "mask.dcm"),
            client.generate(tmp_path / "mask.dcm", steps=1).report,
        ):
            assert any("no SpacingBetweenSlices" in warning for warning in report["warnings"])
