"""Masks that come as DICOM Segmentations."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import nibabel as nib
import numpy as np

from ._anatomy import NAMES, SYNONYMS, Anatomy, anatomy_of
from ._errors import MaskError, first_line, printable
from ._image_file import MAX_BYTES
from ._segmentation import ID, require_dicom

if TYPE_CHECKING:
    import highdicom
    from pydicom.dataset import Dataset

OWN = "maisi"  # the vocabulary of MAISI's ids
_SOP_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # BINARY, LABELMAP
_Codes: TypeAlias = tuple[str, str, str]  # type, region and side; empty without
_ERRORS = (
    *(AttributeError, EOFError, IndexError, KeyError, MemoryError, NotImplementedError, OSError),
    *(RuntimeError, TypeError, ValueError),
)


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file begins as PS3.10 says: 128 bytes of anything, then DICM."""
    try:
        with Path(path).open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_segmentation(path: str | os.PathLike[str], name: str) -> nib.Nifti1Image:
    """Read a DICOM Segmentation, BINARY or LABELMAP, as a label map; `name` is what to call it.

    A label's id is the one that was written with it here. Else it is MAISI's, by the segment's
    coded anatomy or its label's name; `extra["vocabulary"]` of the image is `maisi` then. Where
    that is so for no segment, the ids are the segments' numbers.

    The grid is that of the images that it refers to, if they lie in its folder; else it ends with
    the first and the last labelled slice. Raises `MaskError` if it is no label map.
    """
    require_dicom()
    import highdicom as hd
    from pydicom.uid import UID

    try:
        dataset = _read(path)
    except _ERRORS as error:
        raise MaskError(f"{name} cannot be read: {first_line(error)}") from error
    kind = UID(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    if kind not in _SOP_CLASSES:
        raise MaskError(
            f"{name} is DICOM of {printable(kind.name) or 'no kind'};"
            " of DICOM, Segmentations are wanted"
        )
    if dataset.get("SegmentationType") == "FRACTIONAL":
        raise MaskError(f"{name} is a fractional Segmentation; BINARY or LABELMAP is wanted")
    try:
        frames = len(dataset.PerFrameFunctionalGroupsSequence)
        if dataset.NumberOfFrames != frames:
            raise ValueError(f"it has {dataset.NumberOfFrames} frames and describes {frames}")
        _check_size(frames, dataset.Rows, dataset.Columns)
        segments = hd.seg.Segmentation.from_dataset(dataset, copy=False)
        if (geometry := segments.get_volume_geometry()) is not None:
            _check_size(*geometry.spatial_shape)
        numbers = segments.get_volume(combine_segments=True)
        ids, vocabulary = _ids(name, dataset.SegmentSequence)
        volume = _whole(numbers, dataset, Path(path).parent)
    except _ERRORS as error:
        told = first_line(error)
        raise MaskError(f"{name} is no label map on a regular grid: {told}") from error
    if max(ids.values()) > 255:
        raise MaskError(f"{name} has a label {max(ids.values())}; ids from 0 to 255 are expected")
    labels = np.zeros(max(ids) + 1, np.uint16)
    labels[list(ids)] = list(ids.values())
    # Columns, rows, slices; DICOM's axes point left, posterior, superior.
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine[:, [2, 1, 0, 3]]
    image = nib.Nifti1Image(labels[volume.array].transpose(2, 1, 0), affine, extra=vocabulary)
    image.header.set_xyzt_units("mm")
    return image


def _read(path: str | os.PathLike[str], **options: Any) -> Dataset:
    """Read a file that is not deflated as a whole; raises ValueError for one, and `_ERRORS`."""
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise ValueError("it is deflated as a whole, and may unpack to any size")
    return dcmread(path, **options)


def _check_size(*sides: int) -> None:
    """Raise ValueError for more voxels, of 2 bytes, than a file may have."""
    if 2 * math.prod(map(int, sides)) > MAX_BYTES:
        raise ValueError(f"it has {' x '.join(map(str, sides))} voxels, more than can be read")


def _ids(name: str, segments: Iterable[Dataset]) -> tuple[dict[int, int], dict[str, str]]:
    """Return the id of each segment number, and the vocabulary if it is known."""
    by_code = {_codes(known): id_ for id_, label in NAMES.items() if (known := anatomy_of(label))}
    by_name = {label: id_ for id_, label in NAMES.items()}
    written, found, strange = {}, {}, {}
    for segment in segments:
        number, label = int(segment.SegmentNumber), printable(str(segment.get("SegmentLabel", "")))
        ours = re.fullmatch(ID.format(r"(\d+)"), str(segment.get("SegmentDescription", "")))
        matches = (by_code[codes] for codes in _readings(segment) if codes in by_code)
        if number == 0:  # the background of a LABELMAP
            continue
        if ours:
            written[number] = int(ours[1])
        elif id_ := next(matches, by_name.get(label.lower())):
            found[number] = id_
        else:
            strange[number] = label
    if strange and (written or found):
        number, label = next(iter(strange.items()))
        raise MaskError(
            f"{name} has a segment {number}, '{label}', that is none of MAISI's labels,"
            " while others are"
        )
    numbers = {number: number for number in (0, *strange)}
    return numbers | written | found, {"vocabulary": OWN} if found else {}


def _codes(anatomy: Anatomy) -> _Codes:
    region, side = anatomy.region or ("", ""), anatomy.side or ("", "")
    return anatomy.type[0], region[0], side[0]


def _readings(segment: Dataset) -> list[_Codes]:
    """Return type, region and side that a segment's codes say, then without what may be too much.

    A side may be said of what has only one, a region of what is nowhere else.
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
    """Return a code of SNOMED CT, today's for one of SNOMED RT; empty for other schemes."""
    from pydicom.sr._snomed_dict import mapping

    scheme = "" if code is None else code.get("CodingSchemeDesignator", "")
    if code is None or scheme not in ("SCT", "SRT", "SNM3"):
        return ""
    value = str(code.get("CodeValue", ""))
    value = value if scheme == "SCT" else mapping["SRT"].get(value, "")
    return SYNONYMS.get(value, value)


def _whole(volume: highdicom.Volume, dataset: Dataset, folder: Path) -> highdicom.Volume:
    """Extend a segmentation, which has no frames without labels, to the slices of its images."""
    images = {
        str(image.ReferencedSOPInstanceUID)
        for series in dataset.get("ReferencedSeriesSequence", [])
        for image in series.ReferencedInstanceSequence
    }
    if len(images) <= volume.shape[0]:
        return volume
    tags = ["SOPInstanceUID", "ImagePositionPatient"]
    positions = []
    for path in filter(is_dicom, folder.iterdir()):
        try:
            header = _read(path, stop_before_pixels=True, specific_tags=tags)
        except _ERRORS:
            continue  # none of the images, or not whole
        if header.get("SOPInstanceUID") in images and "ImagePositionPatient" in header:
            positions.append(header.ImagePositionPatient)
    if not positions:
        return volume
    at = volume.map_reference_to_indices(np.array(positions, np.float64))
    slices = np.rint(at[:, 0]).astype(int)
    if np.abs(at - np.stack([slices, 0 * slices, 0 * slices], 1)).max() > 0.05:
        return volume  # images of another grid
    before, after = max(0, -int(slices.min())), max(0, int(slices.max()) - volume.shape[0] + 1)
    _check_size(volume.shape[0] + before + after, *volume.shape[1:])
    return volume.pad([(before, after), (0, 0), (0, 0)])
