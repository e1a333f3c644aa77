"""The images of a DICOM series: CT or MR slices of an anonymous synthetic patient."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._errors import InvalidRequest
from .._grid import RasImage, voxel_digest
from .slice_grid import SliceGrid, planes_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_DESCRIBED_KEYS = ("variant", "modality", "seed", "steps", "guidance")
_SOFT_TISSUE = (40, 400)  # HU, centre and width of the usual window for the trunk


def images(
    grid: SliceGrid, volume: RasImage, report: Mapping[str, Any], mask: RasImage | None
) -> Iterator[Dataset]:
    """Yield the images of the slices, from the feet to the head."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    kind, planes = _kind(report, volume.values), planes_of(volume)
    parameters = json.dumps([report.get(key) for key in ("variant", "modality", "seed", "weights")])
    affine = np.asarray(volume.image.affine, np.float32).tobytes().hex()
    group = [str(report["group"])] if report.get("group") else []
    subject = content_uid("subject", affine, voxel_digest(volume if mask is None else mask), *group)
    patient = content_uid("patient", *group) if group else subject
    series = content_uid(subject, "series", voxel_digest(volume), parameters)
    common = _common(report, patient, subject, series, mask is not None)
    for number, plane in enumerate(planes):
        position = grid.origin + number * grid.spacing[2] * grid.cosines[:, 2]
        image = Dataset()
        image.update(common)
        image.update(kind)
        image.SOPInstanceUID = content_uid(series, str(number))
        image.InstanceNumber = number + 1
        image.ImagePositionPatient = decimals(position, 6)
        image.ImageOrientationPatient = decimals(grid.cosines[:, :2].T.ravel(), 10)
        image.SliceLocation = decimals([position @ grid.cosines[:, 2]], 6)[0]
        image.PixelSpacing = [grid.spacing[1], grid.spacing[0]]  # between rows, between columns
        image.SliceThickness = image.SpacingBetweenSlices = grid.spacing[2]
        image.Rows, image.Columns = plane.shape
        image.PixelData = np.ascontiguousarray(plane, "<i2").tobytes()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        yield image


def decimals(values: Any, places: int) -> list[float]:
    """Return values rounded so that they fit into a decimal string of 16 characters; never -0."""
    return [float(value) + 0.0 for value in np.round(values, places)]


def content_uid(*content: str) -> str:
    """Return a UID that is computed from the content."""
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=["maisi-client", *(f"{len(c)}:{c}" for c in content)]))


def _kind(report: Mapping[str, Any], values: NDArray[np.int16]) -> Dataset:
    """Return the attributes of CT or MR; raises `InvalidRequest` for any other modality."""
    from pydicom.dataset import Dataset
    from pydicom.uid import CTImageStorage, MRImageStorage

    name = str(report.get("modality"))
    kind = Dataset()
    kind.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    if name.split("_")[0] == "ct":
        kind.SOPClassUID, kind.Modality = CTImageStorage, "CT"
        kind.RescaleIntercept, kind.RescaleSlope, kind.RescaleType = 0, 1, "HU"
        kind.KVP = None
        kind.WindowCenter, kind.WindowWidth = _SOFT_TISSUE
        return kind
    if name.split("_")[0] != "mri":
        raise InvalidRequest(f"the report's modality is '{name}'; ct or mri is expected")
    kind.SOPClassUID, kind.Modality = MRImageStorage, "MR"
    kind.ImageType[2] = "OTHER"
    # There is no pulse sequence, so it is in research mode without a variant or times.
    kind.ScanningSequence, kind.SequenceVariant, kind.ScanOptions = "RM", "NONE", None
    kind.MRAcquisitionType = "3D"
    kind.RepetitionTime = kind.EchoTime = kind.EchoTrainLength = None
    white = max(2, int(np.percentile(values, 99.5)))
    kind.WindowCenter, kind.WindowWidth = white // 2, white
    return kind


def _common(
    report: Mapping[str, Any], patient: str, subject: str, series: str, masked: bool
) -> Dataset:
    """Return the attributes of all images: an anonymous patient, and the origin of the images.

    A `patient` is a group of a dataset; a `subject` is a mask of it, with its grid. Both are UIDs,
    and the same one without a group. `series` is the UID of the series.
    """
    from pydicom.dataset import Dataset

    parameters = {key: report[key] for key in _DESCRIBED_KEYS if report.get(key) is not None}
    weights = json.dumps(report.get("weights"), sort_keys=True).encode()
    server = (report.get("versions") or {}).get("maisi", "of unknown version")
    common = Dataset()
    common.SpecificCharacterSet = "ISO_IR 192"
    common.SyntheticData = "YES"
    common.PatientID = f"MAISI-{hashlib.sha256(patient.encode()).hexdigest()[:16]}"
    common.PatientName = "Synthetic^MAISI"
    common.PatientBirthDate = common.PatientSex = None
    common.PatientComments = "Synthetic image"
    common.StudyInstanceUID = content_uid(subject, "study")
    common.StudyID = hashlib.sha256(subject.encode()).hexdigest()[:16]
    common.StudyDate = common.StudyTime = None
    common.AccessionNumber = common.ReferringPhysicianName = None
    common.StudyDescription = "MAISI synthetic"
    common.SeriesInstanceUID = series
    # The Segmentation and the Structure Set have the next two numbers, all below 2**31.
    common.SeriesNumber = 10 * (1 + int(hashlib.sha256(series.encode()).hexdigest(), 16) % 10**8)
    common.SeriesDescription = " ".join(
        f"seed {value}" if key == "seed" else str(value)
        for key, value in list(parameters.items())[:3]
    )[:59]
    common.Laterality = None
    common.PatientPosition = "HFS"
    common.FrameOfReferenceUID = content_uid(subject, "frame of reference")
    common.PositionReferenceIndicator = None
    common.Manufacturer = "maisi-client"
    common.ManufacturerModelName = str(parameters.get("variant", "unknown"))[:64]
    common.DeviceSerialNumber = hashlib.sha256(weights).hexdigest()[:16]
    common.SoftwareVersions = [f"maisi-client {version('maisi-client')}", f"maisi {server}"[:64]]
    common.AcquisitionNumber = None
    common.ImageComments = "SYNTHETIC IMAGE: " + ", ".join(
        f"{key} {value}" for key, value in parameters.items()
    )
    inputs = ["noise"]
    inputs += ["a label mask"] if masked or report.get("masked") else []
    inputs += ["a source volume"] if "strength" in report else []
    common.DerivationDescription = f"Made by a generative model (MAISI) from {', '.join(inputs)}"
    common.SamplesPerPixel, common.PhotometricInterpretation = 1, "MONOCHROME2"
    common.BitsAllocated, common.BitsStored, common.HighBit = 16, 16, 15
    common.PixelRepresentation = 1
    return common
