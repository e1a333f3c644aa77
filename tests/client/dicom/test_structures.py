"""RT Structure Sets: the contours hold the mask's voxels, in mm, with its names and colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from maisi_client import Volume, save_dicom
from maisi_client._colours import colour, rgb
from maisi_client._dicom.cielab import cielab
from maisi_client._dicom.contours import contours
from maisi_client._mask import load_mask
from PIL import Image, ImageCms

from tests.client.affines import oblique
from tests.client.dicom.volumes import CT, SIZES, dice, mask_of, rasterised, read, volume
from tests.conftest import ROOT


def regions_of(mask: nib.Nifti1Image) -> dict[int, Any]:
    """Return the region of each label in the order of a series: slices, rows, columns, in LPS."""
    planes = load_mask(mask).values[::-1, ::-1].transpose(2, 1, 0)
    return {int(id_): planes == id_ for id_ in np.unique(planes) if id_}


@pytest.mark.parametrize("codes", ["RAS", "PSR", "LPI"])
def test_contours_rasterise_to_the_mask(tmp_path: Path, codes: str) -> None:
    ct = volume(oblique(codes, SIZES))
    mask = mask_of(ct.image)
    *slices, _, structures = read(save_dicom(ct, tmp_path / "series", mask=mask))
    regions, expected = rasterised(structures, slices), regions_of(mask)
    assert regions.keys() == expected.keys()
    assert all(np.array_equal(regions[id_], expected[id_]) for id_ in expected)


@pytest.mark.slow
def test_a_whole_head_rasterises_to_the_mask(tmp_path: Path) -> None:
    mask = nib.load(ROOT / "examples" / "brain_mask.nii.gz")
    head = Volume(nib.Nifti1Image(np.asarray(mask.dataobj, np.int16), mask.affine), CT)
    *slices, _, structures = read(save_dicom(head, tmp_path / "series", mask=mask))
    regions, expected = rasterised(structures, slices), regions_of(mask)
    large = {id_: region for id_, region in expected.items() if region.sum() > 300}
    assert len(large) > 20
    assert {id_: dice(regions[id_], large[id_]) for id_ in large} == pytest.approx(
        dict.fromkeys(large, 1.0), abs=0.02
    )


def test_holes_and_islands() -> None:
    """A ring, an island in it, a neighbour by a corner, and a hole at a pixel of the edge."""
    region = np.zeros((20, 24), bool)
    region[2:16, 3:17] = True
    region[5:12, 6:13] = False
    region[8, 9] = region[16, 17] = region[19, 23] = True
    region[3, 4] = False
    outlines = contours(region)
    assert len(outlines) in (3, 4)  # a corner may join or not
    assert contours(np.zeros((4, 4), bool)) == []
    inside = np.zeros_like(region)
    rows, columns = np.indices(region.shape)
    for outline in outlines:
        x, y = outline.T
        x2, y2 = np.roll(x, -1), np.roll(y, -1)
        for ax, ay, bx, by in zip(x, y, x2, y2, strict=True):  # crossings to the right of a centre
            if ay != by:
                meets = (ay > rows) != (by > rows)
                inside ^= meets & (columns < ax + (rows - ay) * (bx - ax) / (by - ay))
    assert np.array_equal(inside, region)


def test_names_codes_and_colours(tmp_path: Path) -> None:
    ct = volume()
    *_, segmentation, structures = read(save_dicom(ct, tmp_path / "series", mask=mask_of(ct.image)))
    rois = {roi.ROINumber: roi for roi in structures.StructureSetROISequence}
    assert rois[230].ROIName == "left hippocampus" and rois[250].ROIName == "label 250"
    assert {roi.ROIGenerationAlgorithm for roi in rois.values()} == {"MANUAL"}
    observations = {one.ReferencedROINumber: one for one in structures.RTROIObservationsSequence}
    assert observations[230].RTROIInterpretedType == "ORGAN"
    assert observations[23].RTROIInterpretedType == ""  # a tumour that no oncologist has drawn
    assert observations[23].AnatomicRegionSequence[0].CodeMeaning == "Lung"
    (side,) = observations[230].RTROIIdentificationCodeSequence
    assert side.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    for roi in structures.ROIContourSequence:
        red, green, blue = roi.ROIDisplayColor
        assert f"#{red:02x}{green:02x}{blue:02x}" == colour(roi.ReferencedROINumber)
    for segment in segmentation.SegmentSequence:
        id_ = int(segment.SegmentDescription.removeprefix("maisi-client label "))
        assert tuple(segment.RecommendedDisplayCIELabValue) == cielab(rgb(id_))


def test_cielab_is_that_of_the_colour_management() -> None:
    """LittleCMS turns the values, of 8 bits, into the picture's colours; its white is D50, too."""
    lab = ImageCms.createProfile("LAB", 5000)
    to_rgb = ImageCms.buildTransform(lab, ImageCms.createProfile("sRGB"), "LAB", "RGB", 1)
    for id_ in range(256):
        lightness, a, b = (round(part / 257) for part in cielab(rgb(id_)))
        picture = Image.new("LAB", (1, 1), (lightness, a, b))
        back = ImageCms.applyTransform(picture, to_rgb).getpixel((0, 0))
        assert np.abs(np.array(back) - rgb(id_)).max() <= 6, (id_, back, rgb(id_))
    assert cielab((255, 255, 255)) == (65535, 32896, 32896)


def test_a_contour_may_be_long(tmp_path: Path) -> None:
    """65536 bytes are more than explicit VR holds."""
    comb = np.zeros((1000, 20, 2), np.uint8)
    comb[5:995, 5:8] = comb[5:995:2, 5:15] = 1
    mask = nib.Nifti1Image(comb, np.diag([0.7, 0.7, 1, 1]))
    ct = Volume(nib.Nifti1Image(comb.astype(np.int16), mask.affine), CT)
    *slices, _, file = save_dicom(ct, tmp_path / "series", mask=mask)
    structures = pydicom.dcmread(file)
    assert structures.file_meta.TransferSyntaxUID.is_implicit_VR
    images = read(slices)
    assert np.array_equal(rasterised(structures, images)[1], regions_of(mask)[1])
    (roi,) = structures.ROIContourSequence
    texts = ["\\".join(map(str, contour.ContourData)) for contour in roi.ContourSequence]
    assert max(map(len, texts)) > 65536


def test_a_labelmap_has_the_ids_as_numbers(tmp_path: Path) -> None:
    ct = volume(oblique("LPS", SIZES))
    mask = mask_of(ct.image)
    *_, file, structures = save_dicom(ct, tmp_path / "labelmap", mask=mask, labelmap=True)
    *_, binary, same = save_dicom(ct, tmp_path / "binary", mask=mask)
    labelmap = pydicom.dcmread(file)
    assert labelmap.SegmentationType == "LABELMAP"
    numbers = {segment.SegmentNumber for segment in labelmap.SegmentSequence}
    assert numbers - {0} == set(regions_of(mask))
    assert set(np.unique(labelmap.pixel_array)) - {0} == set(regions_of(mask))
    assert np.array_equal(load_mask(file).values, load_mask(mask).values)
    assert pydicom.dcmread(binary).SOPInstanceUID != labelmap.SOPInstanceUID
    assert structures.read_bytes() == same.read_bytes()
