"""Write label masks as DICOM Segmentations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._anatomy import Code, anatomy_of, category_of
from .._colours import rgb
from .._errors import MaisiError
from .cielab import cielab

if TYPE_CHECKING:
    import highdicom
    from pydicom.dataset import Dataset

ID = "maisi-client label {}"  # Segment Description; the segment's number is not the label's id
_SCHEME = "99MAISI"  # for labels without a code; private schemes begin with 99, PS3.16 section 8


def require_dicom(*packages: str) -> None:
    """Raise `MaisiError` if highdicom, or one of `packages` of the extra, is not installed."""
    for package in ("highdicom", *packages):
        try:
            import_module(package)
        except ImportError:
            raise MaisiError(
                f"DICOM needs {package}, which is not installed: pip install 'maisi-client[dicom]'"
            ) from None


def segments(
    planes: NDArray[np.uint8], names: Mapping[int, str], report: Mapping[str, Any]
) -> dict[int, highdicom.seg.SegmentDescription]:
    """Return the segment of each label above 0 in `planes` `[slices, rows, columns]`, by label id.

    Segments are numbered from 1. `names` maps label ids to names. `report` gives the origin of the
    labels.
    """
    ids = [int(id_) for id_ in np.unique(planes) if id_]
    return {
        id_: _segment(number, id_, names.get(id_, f"label {id_}"), report)
        for number, id_ in enumerate(ids, 1)
    }


def segmentation(
    planes: NDArray[np.uint8],
    series: Sequence[Dataset],
    segments: Mapping[int, highdicom.seg.SegmentDescription],
    uids: tuple[str, str],
    labelmap: bool,
) -> Dataset:
    """Return the DICOM Segmentation of labels `[slices, rows, columns]`, at least one above 0.

    `series` are the images of the slices. `segments` maps label ids to segments. `uids` are the
    UIDs of the segmentation's series and of the segmentation. In a LABELMAP, a segment's number is
    its label's id.
    """
    import highdicom as hd

    numbers = np.zeros(256, np.uint8)
    numbers[list(segments)] = [segment.SegmentNumber for segment in segments.values()]
    described = list(segments.values())
    if labelmap:
        numbers = np.arange(256, dtype=np.uint8)
        described = [deepcopy(segment) for segment in described]
        for id_, segment in zip(segments, described, strict=True):
            segment.SegmentNumber = id_
    first = series[0]
    kinds = hd.seg.SegmentationTypeValues
    dataset = hd.seg.Segmentation(
        source_images=series,
        pixel_array=numbers[planes],
        segmentation_type=kinds.LABELMAP if labelmap else kinds.BINARY,
        segment_descriptions=described,
        series_instance_uid=uids[0],
        series_number=first.SeriesNumber + 1,
        sop_instance_uid=uids[1],
        instance_number=1,
        manufacturer=first.Manufacturer,
        manufacturer_model_name=first.ManufacturerModelName,
        software_versions=first.SoftwareVersions,
        device_serial_number=first.DeviceSerialNumber,
        content_label="MASK",
        content_description="Label mask that the synthetic volume follows",
    )
    dataset.SeriesDescription = f"{first.SeriesDescription} mask"
    dataset.SyntheticData = "YES"
    return dataset


def _segment(
    number: int, id_: int, name: str, report: Mapping[str, Any]
) -> highdicom.seg.SegmentDescription:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    anatomy = anatomy_of(name)
    # MANUAL: the labels come from the user, and their origin is unknown here.
    changed = report.get("augmented") or report.get("body_added")
    algorithm = "AUTOMATIC" if report.get("anatomy") else "SEMIAUTOMATIC" if changed else "MANUAL"
    segment = hd.seg.SegmentDescription(
        number,
        name[:64],
        _code(category_of(name)),
        _code(anatomy.type) if anatomy else hd.sr.CodedConcept(str(id_), _SCHEME, name[:64]),
        algorithm,
        None
        if algorithm == "MANUAL"
        else hd.AlgorithmIdentificationSequence(
            name=f"MAISI {report.get('variant', '')}".strip(),
            family=codes.DCM.ArtificialIntelligence,
            version=str((report.get("versions") or {}).get("maisi", "unknown")),
        ),
        anatomic_regions=[_code(anatomy.region)] if anatomy and anatomy.region else None,
    )
    segment.SegmentDescription = ID.format(id_)
    segment.RecommendedDisplayCIELabValue = list(cielab(rgb(id_)))
    if anatomy and anatomy.side and anatomy.region:
        segment.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [_code(anatomy.side)]
    elif anatomy and anatomy.side:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_code(anatomy.side)]
    return segment


def _code(code: Code) -> highdicom.sr.CodedConcept:
    import highdicom as hd

    value, meaning = code
    return hd.sr.CodedConcept(value, "SCT", meaning)
