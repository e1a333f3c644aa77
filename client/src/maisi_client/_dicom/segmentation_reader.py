"""Read masks from DICOM Segmentations."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import nibabel as nib
import numpy as np

from .._anatomy import NAMES, SYNONYMS, Anatomy, anatomy_of
from .._errors import MaskError, first_line, printable
from .._label_names import label_id
from .file import DICOM_ERRORS, check_size, read_dicom
from .segmentation_writer import ID, require_dicom
from .slices import extended, referenced_positions, set_slice_spacing

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

OWN = "maisi"  # the vocabulary of MAISI's ids
LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"  # the SOP class of LABELMAP
_SOP_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", LABELMAP)  # BINARY, LABELMAP
_Codes: TypeAlias = tuple[str, str, str]  # type, region and side; empty if there is none


def is_segmentation(path: str | os.PathLike[str]) -> bool:
    """Return whether a DICOM file is a Segmentation, by its SOP class."""
    from pydicom.filereader import read_file_meta_info

    try:
        return read_file_meta_info(path).get("MediaStorageSOPClassUID", "") in _SOP_CLASSES
    except DICOM_ERRORS:
        return False


def read_segmentation(path: str | os.PathLike[str], name: str) -> nib.Nifti1Image:
    """Return a DICOM Segmentation, BINARY or LABELMAP, as a label mask; `name` is for errors.

    If this package wrote the file, a label has its original id. Otherwise it has MAISI's id for the
    segment's coded anatomy or for the name of its label, and `extra["vocabulary"]` of the image is
    `maisi`. If no segment has such an id, the ids are the segments' numbers.

    If all referenced images are in the same folder, the grid is the grid of these images.
    Otherwise it ends at the first and the last labelled slice. `extra["warnings"]` has a warning if
    the slice spacing is taken from the slice thickness. Raises `MaskError` if the file is not a
    label mask.
    """
    require_dicom()
    import highdicom as hd
    from pydicom.uid import UID

    try:
        dataset = read_dicom(path)
    except DICOM_ERRORS as error:
        raise MaskError(f"{name} cannot be read: {first_line(error)}") from error
    kind = UID(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    if kind not in _SOP_CLASSES:
        raise MaskError(
            f"{name} is DICOM of {printable(kind.name) or 'no kind'};"
            " a DICOM file must be a Segmentation"
        )
    if dataset.get("SegmentationType") == "FRACTIONAL":
        raise MaskError(f"{name} is a fractional Segmentation; BINARY or LABELMAP is expected")
    try:
        frames = len(dataset.PerFrameFunctionalGroupsSequence)
        if dataset.NumberOfFrames != frames:
            raise ValueError(f"it has {dataset.NumberOfFrames} frames but describes {frames}")
        check_size(frames, dataset.Rows, dataset.Columns)
        positions = referenced_positions(dataset, Path(path).parent)
        warning = set_slice_spacing(dataset, positions)
        segments = hd.seg.Segmentation.from_dataset(dataset, copy=False)
        if (geometry := segments.get_volume_geometry()) is not None:
            check_size(*geometry.spatial_shape)
        numbers = segments.get_volume(combine_segments=True)
        ids, vocabulary = _ids(name, dataset.SegmentSequence)
        volume = extended(numbers, positions)
    except DICOM_ERRORS as error:
        why = first_line(error)
        raise MaskError(f"{name} is not a label mask on a regular grid: {why}") from error
    if max(ids.values()) > 255:
        raise MaskError(f"{name} has a label {max(ids.values())}; ids from 0 to 255 are expected")
    labels = np.zeros(max(ids) + 1, np.uint16)
    labels[list(ids)] = list(ids.values())
    # The axes are columns, rows and slices. DICOM's axes point left, posterior and superior.
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine[:, [2, 1, 0, 3]]
    extra = vocabulary | {"warnings": [f"{name}: {warning}"] if warning else []}
    image = nib.Nifti1Image(labels[volume.array].transpose(2, 1, 0), affine, extra=extra)
    image.header.set_xyzt_units("mm")
    return image


def _ids(name: str, segments: Iterable[Dataset]) -> tuple[dict[int, int], dict[str, Any]]:
    """Return the label id of each segment number, and `vocabulary` if it is known."""
    by_code = {
        _codes(anatomy): id_ for id_, label in NAMES.items() if (anatomy := anatomy_of(label))
    }
    own_ids, maisi_ids, unknown = {}, {}, {}
    for segment in segments:
        number, label = int(segment.SegmentNumber), printable(str(segment.get("SegmentLabel", "")))
        own_id = re.fullmatch(ID.format(r"(\d+)"), str(segment.get("SegmentDescription", "")))
        matches = (by_code[codes] for codes in _code_variants(segment) if codes in by_code)
        if number == 0:  # the background of a LABELMAP
            continue
        if own_id:
            own_ids[number] = int(own_id[1])
        elif id_ := next(matches, label_id(label)):
            maisi_ids[number] = id_
        else:
            unknown[number] = label
    if unknown and (own_ids or maisi_ids):
        number, label = next(iter(unknown.items()))
        raise MaskError(
            f"{name} has a segment {number}, '{label}', that is not one of MAISI's labels,"
            " although other segments are"
        )
    numbers = {number: number for number in (0, *unknown)}
    return numbers | own_ids | maisi_ids, {"vocabulary": OWN} if maisi_ids else {}


def _codes(anatomy: Anatomy) -> _Codes:
    region, side = anatomy.region or ("", ""), anatomy.side or ("", "")
    return anatomy.type[0], region[0], side[0]


def _code_variants(segment: Dataset) -> list[_Codes]:
    """Return the codes (type, region, side) of a segment, then variants without side or region.

    A segment may have a side although the structure exists only once, or a region that its type
    implies.
    """

    def item(of: Dataset | None, sequence: str) -> Dataset | None:
        return next(iter((of.get(sequence) or []) if of is not None else []), None)

    kind = item(segment, "SegmentedPropertyTypeCodeSequence")
    where = item(segment, "AnatomicRegionSequence")
    side = item(kind, "SegmentedPropertyTypeModifierCodeSequence") or item(
        where, "AnatomicRegionModifierSequence"
    )
    structure, region, lateral = map(_snomed, (kind, where, side))
    return [
        *((structure, region, lateral), (structure, region, "")),
        *((structure, "", lateral), (structure, "", "")),
    ]


def _snomed(code: Dataset | None) -> str:
    """Return the SNOMED CT code for a code of SNOMED CT or SNOMED RT; empty for other schemes."""
    from pydicom.sr._snomed_dict import mapping

    scheme = "" if code is None else code.get("CodingSchemeDesignator", "")
    if code is None or scheme not in ("SCT", "SRT", "SNM3"):
        return ""
    value = str(code.get("CodeValue", ""))
    value = value if scheme == "SCT" else mapping["SRT"].get(value, "")
    return SYNONYMS.get(value, value)
