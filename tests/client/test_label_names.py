"""Names of labels in a header, which define the ids."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from maisi_client import MaskError
from maisi_client._image_file import load
from maisi_client._label_names import label_id, label_names
from maisi_client._mask import load_mask
from maisi_client._request import prepare

TOTAL = (
    '<?xml version="1.0"?><CaretExtension><VolumeInformation Index="0"><LabelTable>'
    '<Label Key="1" Red="1" Green="0" Blue="0" Alpha="1"><![CDATA[spleen]]></Label>'
    '<Label Key="2" Red="0" Green="1" Blue="0" Alpha="1">kidney_right</Label>'
    '<Label Key="21" Red="0" Green="1" Blue="1" Alpha="1">urinary_bladder</Label>'
    "</LabelTable></VolumeInformation></CaretExtension>"
)
ITK_SNAP = """# ITK-SnAP Label Description File
    0     0    0    0        0  0  0    "Clear Label"
    1   255    0    0        1  1  1    "spleen"
    2     0  255    0      0.5  1  1    "right kidney"
   21     0  255  255        1  1  1    "bladder"
"""
SLICER = (
    "Segment0_LabelValue:=1\nSegment0_Name:=Spleen\nSegment1_Name:=right kidney\n"
    "Segment1_LabelValue:=2\nSegment2_LabelValue:=21\nSegment2_Name:=Urinary bladder\n"
)
ITK_SNAP_ALONE = ITK_SNAP.partition('"Clear Label"\n')[2]
COLOURS = (
    "# Color table\n1 spleen 255 0 0 255\n2 right_kidney 0 255 0 255\n21 urinary bladder 0 0 9 0\n"
)
JSON = '{"labels": {"1": "spleen", "2" : "kidney_right",\n"21": "bladder"}}'
SINGLE = TOTAL.replace('"', "'")
OWN = {3: "spleen", 5: "right kidney", 15: "bladder"}


def mask(path: Path, ids: tuple[int, ...], text: str, code: int = 0) -> Path:
    labels = np.zeros((8, 8, 8), np.uint8)
    for plane, id_ in enumerate(ids):
        labels[plane] = id_
    image = nib.Nifti1Image(labels, np.eye(4))
    if text:
        image.header.extensions.append(nib.nifti1.Nifti1Extension(code, text.encode()))
    image.to_filename(path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("text", "code"),
    [
        (TOTAL, 0),
        (TOTAL, 30),
        (ITK_SNAP, 6),
        (SLICER, 0),
        (ITK_SNAP_ALONE, 0),
        (COLOURS, 0),
        (JSON, 44),
        (SINGLE, 30),
    ],
)
def test_names_make_the_ids(tmp_path: Path, text: str, code: int, suffix: str) -> None:
    path = mask(tmp_path / f"mask{suffix}", (1, 2, 21), text, code)
    for picture in (path, nib.load(path)):
        labels = load_mask(picture)
        assert [int(labels.values[plane, 0, 0]) for plane in range(4)] == [3, 5, 15, 0]
        assert labels.named
        (warning,) = labels.warnings
        assert "1 " in warning and "became 3" in warning and "--vocabulary" in warning


def test_names_may_be_in_any_of_several_extensions(tmp_path: Path) -> None:
    labels = np.full((4, 4, 4), 5, np.uint8)
    image = nib.Nifti1Image(labels, np.eye(4))
    for text in ("a comment", '5 0 0 255 1 1 1 "liver"', "another"):
        image.header.extensions.append(nib.nifti1.Nifti1Extension(6, text.encode()))
    for name in ("mask.nii", "mask.nii.gz"):
        image.to_filename(tmp_path / name)
        assert set(np.unique(load_mask(tmp_path / name).values)) == {1}


def test_a_vocabulary_says_more_than_names(tmp_path: Path) -> None:
    path = mask(tmp_path / "mask.nii", (1, 2), TOTAL)
    for vocabulary in ("maisi", "totalsegmentator-v2"):
        labels = load_mask(path, vocabulary)
        assert set(np.unique(labels.values)) == {0, 1, 2}
        assert not labels.named and not labels.warnings


def test_maisis_own_names_change_nothing(tmp_path: Path) -> None:
    text = "".join(f'<Label Key="{id_}" Red="1">{name}</Label>' for id_, name in OWN.items())
    labels = load_mask(mask(tmp_path / "mask.nii", tuple(OWN), text))
    assert set(np.unique(labels.values)) == {0, *OWN}
    assert not labels.named and not labels.warnings


def test_names_of_other_things_are_warned_of(tmp_path: Path) -> None:
    labels = load_mask(mask(tmp_path / "mask.nii", (1,), '<Label Key="1" Red="1">Label 1</Label>'))
    assert set(np.unique(labels.values)) == {0, 1}
    assert "names label 1 'Label 1'" in labels.warnings[0] and "--vocabulary" in labels.warnings[0]


@pytest.mark.parametrize(("ids", "sentence"), [((1, 2, 9), "without a name"), ((1, 7), "'face'")])
def test_half_known_names_are_refused(tmp_path: Path, ids: tuple[int, ...], sentence: str) -> None:
    text = TOTAL + '<Label Key="7" Red="1">face</Label>'
    with pytest.raises(MaskError, match=rf"label {ids[-1]} is {sentence} in.*--vocabulary"):
        load_mask(mask(tmp_path / "mask.nii", ids, text))


def test_names_of_labels_that_are_not_there_do_not_matter(tmp_path: Path) -> None:
    text = TOTAL + '<Label Key="7" Red="1">face</Label>'
    assert load_mask(mask(tmp_path / "mask.nii", (1,), text)).values[0, 0, 0] == 3


def test_an_extension_that_lies_about_its_length_is_harmless(tmp_path: Path) -> None:
    path = mask(tmp_path / "mask.nii", (1, 2), TOTAL)
    content = bytearray(path.read_bytes())
    content[352:356] = b"\xff\xff\xff\x7f"  # esize
    path.write_bytes(content)
    assert label_names(load(path))[2] == "kidney_right"


def test_names_match_in_any_order_of_words() -> None:
    assert label_id("kidney_right") == label_id("Right Kidney") == 5
    assert label_id("vertebrae_L3") == label_id("vertebrae L3") == 35
    assert label_id("left") is None and label_id("") is None


def test_the_warning_is_said_where_an_answer_has_no_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = mask(tmp_path / "mask.nii", (1,), TOTAL)
    assert prepare(path, {}, check=True).warnings and not caplog.messages
    prepare(path, {}, mask_only=True)
    assert "became 3" in caplog.text


def test_labels_that_another_spacing_loses_are_warned_of() -> None:
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[2:8, 2:8, 2:8] = 22
    labels[11, 11, 11] = 150
    image = nib.Nifti1Image(labels, np.eye(4))
    (warning,) = prepare(image, {"spacing": 4}).warnings
    assert "labels 150 of the mask are too small" in warning
    assert not prepare(image, {"spacing": 1}).warnings
