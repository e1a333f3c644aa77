"""Writing of label maps as DICOM Segmentations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._anatomy import STRUCTURE, Code, anatomy_of
from .._errors import MaisiError

if TYPE_CHECKING:
    import highdicom
    from pydicom.dataset import Dataset

ID = "maisi-client label {}"  # Segment Description, as a segment's number is not its label's id
_SCHEME = "99MAISI"  # for labels without a code: private schemes begin with 99, PS3.16 section 8


def require_dicom() -> None:
    """Raise `MaisiError` if highdicom is not installed."""
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise MaisiError(
            "DICOM needs pydicom and highdicom, which are not installed:"
            " pip install 'maisi-client[dicom]'"
        ) from None


def segmentation(
    planes: NDArray[np.uint8],
    series: Sequence[Dataset],
    names: Mapping[int, str],
    report: Mapping[str, Any],
    uids: tuple[str, str],
) -> Dataset:
    """Return the DICOM Segmentation of labels `[slices, rows, columns]`, at least one above 0.

    `series` are the images of the slices, `names` the labels' names by id, `uids` those of the
    segmentation's series and of itself.
    """
    import highdicom as hd

    ids = [int(id_) for id_ in np.unique(planes) if id_]
    numbers = np.zeros(256, np.uint8)
    numbers[ids] = np.arange(1, len(ids) + 1)
    first = series[0]
    dataset = hd.seg.Segmentation(
        source_images=series,
        pixel_array=numbers[planes],
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _segment(number, id_, names.get(id_, f"label {id_}"), report)
            for number, id_ in enumerate(ids, 1)
        ],
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
    # MANUAL: the labels are the user's, and how they were made is not known here.
    changed = report.get("augmented") or report.get("body_added")
    algorithm = "AUTOMATIC" if report.get("anatomy") else "SEMIAUTOMATIC" if changed else "MANUAL"
    segment = hd.seg.SegmentDescription(
        number,
        name[:64],
        _code(anatomy.category if anatomy else STRUCTURE),
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
