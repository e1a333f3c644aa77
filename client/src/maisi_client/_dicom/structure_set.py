"""Write label masks as RT Structure Sets, which have contours in mm, for radiotherapy."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .._colours import rgb
from .contours import contours
from .slice_grid import SliceGrid

if TYPE_CHECKING:
    import highdicom
    from pydicom.dataset import Dataset

_COPIED = (  # elements of the images: patient, study, frame of reference and equipment
    *("SpecificCharacterSet", "SyntheticData", "PatientID", "PatientName", "PatientBirthDate"),
    *("PatientSex", "PatientComments", "StudyInstanceUID", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName", "StudyDescription", "FrameOfReferenceUID"),
    *("PositionReferenceIndicator", "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber"),
    *("SoftwareVersions",),
)
_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"  # PS3.3 C.8.8.5.4: the class of a referenced study
_ORGAN_CATEGORIES = ("91723000", "85756007")  # SNOMED CT: anatomical structure, tissue


def structure_set(
    planes: NDArray[np.uint8],
    grid: SliceGrid,
    series: Sequence[Dataset],
    segments: Mapping[int, highdicom.seg.SegmentDescription],
    uids: tuple[str, str],
) -> Dataset:
    """Return the RT Structure Set of labels `[slices, rows, columns]`.

    Each label is a region of interest, whose number is the label's id. `series` are the images of
    the slices on `grid`. `segments` maps label ids to segments. `uids` has the UID of the structure
    set's series and the UID of the set.
    """
    from pydicom.charset import convert_encodings, default_encoding
    from pydicom.dataelem import RawDataElement
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.tag import Tag
    from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

    first, tag = series[0], Tag("ContourSequence")
    dataset = Dataset()
    for keyword in _COPIED:
        dataset[keyword] = first[keyword]
    dataset.SOPClassUID, dataset.Modality = RTStructureSetStorage, "RTSTRUCT"
    dataset.SeriesInstanceUID, dataset.SOPInstanceUID = uids
    dataset.SeriesNumber, dataset.InstanceNumber = first.SeriesNumber + 2, 1
    dataset.SeriesDescription = f"{first.SeriesDescription} contours"
    dataset.OperatorsName = None
    dataset.StructureSetLabel = "MASK"
    dataset.StructureSetDescription = "Contours of the label mask that the synthetic volume follows"
    dataset.StructureSetDate = dataset.StructureSetTime = None
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.ReferencedFrameOfReferenceSequence = [_frame_of_reference(series)]
    dataset.StructureSetROISequence = []
    dataset.ROIContourSequence = []
    dataset.RTROIObservationsSequence = []
    for id_, segment in segments.items():
        roi = Dataset()
        roi.ROINumber = id_
        roi.ReferencedFrameOfReferenceUID = first.FrameOfReferenceUID
        roi.ROIName = segment.SegmentLabel
        roi.ROIGenerationAlgorithm = segment.SegmentAlgorithmType
        outlines = Dataset()
        outlines.ReferencedROINumber = id_
        outlines.ROIDisplayColor = list(rgb(id_))
        items = _contours(planes == id_, grid, series)
        outlines[tag] = RawDataElement(tag, "SQ", len(items), items, 0, True, True)
        outlines.set_original_encoding(True, True, default_encoding)
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(outlines)
        dataset.RTROIObservationsSequence.append(_observation(id_, segment))
    # pydicom writes the encoded contours unchanged if the dataset has the same encoding.
    dataset.set_original_encoding(True, True, convert_encodings(dataset.SpecificCharacterSet))
    dataset.file_meta = FileMetaDataset()
    # With explicit VR, an element of numbers could not have more than 65534 bytes.
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def _frame_of_reference(series: Sequence[Dataset]) -> Dataset:
    """Return the reference to all images, with or without contours."""
    from pydicom.dataset import Dataset

    of_series, study, frame = Dataset(), Dataset(), Dataset()
    of_series.SeriesInstanceUID = series[0].SeriesInstanceUID
    of_series.ContourImageSequence = [_reference(image) for image in series]
    study.ReferencedSOPClassUID = _STUDY_MANAGEMENT
    study.ReferencedSOPInstanceUID = series[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [of_series]
    frame.FrameOfReferenceUID = series[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _reference(image: Dataset) -> Dataset:
    from pydicom.dataset import Dataset

    reference = Dataset()
    reference.ReferencedSOPClassUID = image.SOPClassUID
    reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
    return reference


def _contours(region: NDArray[np.bool_], grid: SliceGrid, series: Sequence[Dataset]) -> bytes:
    """Return the items of a Contour Sequence for a region `[slices, rows, columns]`: LPS, mm.

    The encoding is implicit VR, little endian (PS3.5 7.1.3 and 7.5.1). This function does the work
    of pydicom, which would create an object for each of millions of numbers.
    """
    steps = grid.cosines * np.array(grid.spacing)
    items = []
    for number in np.flatnonzero(region.any(axis=(1, 2))):
        image, start = series[number], grid.origin + number * steps[:, 2]
        reference = _element("ReferencedSOPClassUID", image.SOPClassUID.encode() + b"\0")
        reference += _element("ReferencedSOPInstanceUID", image.SOPInstanceUID.encode() + b"\0")
        reference = _element("ContourImageSequence", _item(reference))
        for polygon in contours(region[number]):
            points = start + polygon @ steps[:, :2].T
            numbers = "\\".join(["%.4f"] * points.size) % tuple(points.ravel().tolist())
            contour = reference + _element("ContourGeometricType", b"CLOSED_PLANAR ")
            contour += _element("NumberOfContourPoints", b"%d " % len(points))
            contour += _element("ContourData", numbers.encode() + b" ")
            items.append(_item(contour))
    return b"".join(items)


def _element(keyword: str, padded: bytes) -> bytes:
    """Return an element; the last byte of its value is padding, omitted if the rest is even."""
    from pydicom.datadict import tag_for_keyword

    value = padded[: len(padded) // 2 * 2]
    return struct.pack("<HHL", *divmod(tag_for_keyword(keyword) or 0, 1 << 16), len(value)) + value


def _item(elements: bytes) -> bytes:
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(elements)) + elements


def _observation(id_: int, segment: highdicom.seg.SegmentDescription) -> Dataset:
    """Return the observation of a region of interest, with the codes of the segment."""
    from pydicom.dataset import Dataset

    observation = Dataset()
    observation.ObservationNumber = observation.ReferencedROINumber = id_
    category = segment.SegmentedPropertyCategoryCodeSequence
    is_organ = category[0].CodeValue in _ORGAN_CATEGORIES
    # A lesion is not a gross tumour volume until an oncologist has drawn it.
    observation.RTROIInterpretedType = "ORGAN" if is_organ else ""
    observation.ROIInterpreter = None
    observation.SegmentedPropertyCategoryCodeSequence = category
    observation.RTROIIdentificationCodeSequence = segment.SegmentedPropertyTypeCodeSequence
    if "AnatomicRegionSequence" in segment:
        observation.AnatomicRegionSequence = segment.AnatomicRegionSequence
    return observation
