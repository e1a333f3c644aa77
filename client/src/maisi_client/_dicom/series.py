"""A synthetic volume as a DICOM series, its mask as a Segmentation of it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from .._anatomy import NAMES
from .._atomic import atomic_folder
from .._errors import InvalidRequest
from .._grid import RasImage, same_grid, to_ras
from .._mask import load_mask
from .._outputs import check_new_folder
from .._volume import Volume
from .segmentation_reader import OWN
from .segmentation_writer import require_dicom, segmentation
from .slice_grid import SliceGrid, planes_of, slice_grid

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_log = logging.getLogger("maisi_client")
_DESCRIBED_KEYS = ("variant", "modality", "seed", "steps", "guidance")
_SOFT_TISSUE = (40, 400)  # HU: the usual window of the trunk


def save_dicom(
    volume: Volume,
    to: str | os.PathLike[str],
    *,
    mask: str | os.PathLike[str] | SpatialImage | None = None,
    labels: Mapping[int, str] | None = None,
) -> list[Path]:
    """Write a volume as a CT or MR series into the new folder `to`, its mask as a Segmentation.

    The slices are `0001.dcm`, ..., in the orientation nearest to axial, from foot to head, as
    viewers show them: columns to the left, rows to posterior; nothing is interpolated. The mask is
    `mask.dcm`: the label map that the volume follows, by default the volume's own if it has one.
    `labels` are the names of its ids, MAISI's by default. UIDs follow from the content: the same
    volume and mask always have the same, and volumes of one mask are one patient's, in one study.

    Return the paths of the files, the slices first. Raises `InvalidRequest` if the report has no CT
    or MR modality, the affine is sheared, the mask is on another grid or empty, or `to` is the
    current folder or exists and is not empty; `MaisiError` without pydicom and highdicom.
    """
    require_dicom()
    to = Path(to)
    check_new_folder(to)
    ras_volume = to_ras("the volume", volume.image, InvalidRequest, _whole)
    grid = slice_grid("the volume", ras_volume)
    ras_mask = _mask(volume, mask, labels, ras_volume)
    with atomic_folder(to) as draft:
        headers, names = [], []
        for image in _series(grid, ras_volume, volume.report, ras_mask):
            names.append(f"{image.InstanceNumber:04d}.dcm")
            image.save_as(draft / names[-1], enforce_file_format=True)
            del image.PixelData
            headers.append(image)
        if ras_mask is not None:
            names.append("mask.dcm")
            label_names = NAMES if labels is None else labels
            content = _digest(ras_mask), repr(sorted(label_names.items()))
            uid = _uid(headers[0].SeriesInstanceUID, *content)
            dataset = segmentation(
                planes_of(ras_mask), headers, label_names, volume.report, (uid, _uid(uid, "1"))
            )
            dataset.save_as(draft / names[-1], enforce_file_format=True)
    return [to / name for name in names]


def _mask(
    volume: Volume,
    mask: str | os.PathLike[str] | SpatialImage | None,
    labels: Mapping[int, str] | None,
    onto: RasImage,
) -> RasImage | None:
    """Return the mask to write; raises `InvalidRequest` if it is not one of this volume."""
    vocabulary = volume.report.get("vocabulary", OWN)
    if mask is not None and labels is None and vocabulary != OWN:
        raise InvalidRequest(
            f"the mask's ids were sent as {vocabulary}'s; leave it out to take the one that the"
            " server gave back, or name its labels"
        )
    mask = volume.mask if mask is None else mask
    if mask is None:
        return None
    # Its ids have the meaning that they had in the request.
    request = volume.report.get("request") or {}
    ras_mask = load_mask(mask, request.get("vocabulary") if labels is None else OWN)
    for warning in ras_mask.warnings:
        _log.warning("%s", warning)
    if not same_grid(onto, ras_mask):
        raise InvalidRequest("the mask lies on another grid than the volume")
    if not ras_mask.values.any():
        raise InvalidRequest("the mask holds no label; leave it out")
    return ras_mask


def _whole(name: str, data: NDArray[Any]) -> NDArray[np.int16]:
    if data.dtype.kind in "buif":
        with np.errstate(invalid="ignore"):
            whole: NDArray[np.int16] = data.astype(np.int16)
        if np.array_equal(whole, data):
            return whole
    raise InvalidRequest(f"{name} holds more than the whole numbers from -32768 to 32767")


def _series(
    grid: SliceGrid, volume: RasImage, report: Mapping[str, Any], mask: RasImage | None
) -> Iterator[Dataset]:
    """Yield the images of the slices, from foot to head."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    kind, planes = _kind(report, volume.values), planes_of(volume)
    parameters = json.dumps([report.get(key) for key in ("variant", "modality", "seed", "weights")])
    affine = np.asarray(volume.image.affine, np.float32).tobytes().hex()
    subject = _uid("subject", affine, _digest(volume if mask is None else mask))
    series = _uid(subject, "series", _digest(volume), parameters)
    common = _common(report, subject, series, mask is not None)
    for number, plane in enumerate(planes):
        position = grid.origin + number * grid.spacing[2] * grid.cosines[:, 2]
        image = Dataset()
        image.update(common)
        image.update(kind)
        image.SOPInstanceUID = _uid(series, str(number))
        image.InstanceNumber = number + 1
        image.ImagePositionPatient = _decimals(position, 6)
        image.ImageOrientationPatient = _decimals(grid.cosines[:, :2].T.ravel(), 10)
        image.SliceLocation = _decimals([position @ grid.cosines[:, 2]], 6)[0]
        image.PixelSpacing = [grid.spacing[1], grid.spacing[0]]  # between rows, between columns
        image.SliceThickness = image.SpacingBetweenSlices = grid.spacing[2]
        image.Rows, image.Columns = plane.shape
        image.PixelData = np.ascontiguousarray(plane, "<i2").tobytes()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        yield image


def _decimals(values: Any, places: int) -> list[float]:
    """Round to what a decimal string of 16 characters holds; no -0."""
    return [float(value) + 0.0 for value in np.round(values, places)]


def _digest(ras: RasImage) -> str:
    return hashlib.sha256(repr(ras.values.shape).encode() + ras.values.tobytes()).hexdigest()


def _uid(*content: str) -> str:
    """Return a UID that follows from the content."""
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=["maisi-client", *(f"{len(c)}:{c}" for c in content)]))


def _kind(report: Mapping[str, Any], values: NDArray[np.int16]) -> Dataset:
    """Return the attributes of CT or of MR; raises `InvalidRequest` for other modalities."""
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
    # There was no pulse sequence: research mode, without a variant, and no times.
    kind.ScanningSequence, kind.SequenceVariant, kind.ScanOptions = "RM", "NONE", None
    kind.MRAcquisitionType = "3D"
    kind.RepetitionTime = kind.EchoTime = kind.EchoTrainLength = None
    white = max(2, int(np.percentile(values, 99.5)))
    kind.WindowCenter, kind.WindowWidth = white // 2, white
    return kind


def _common(report: Mapping[str, Any], subject: str, series: str, masked: bool) -> Dataset:
    """Return the attributes of all images: an anonymous patient, and how they were made."""
    from pydicom.dataset import Dataset

    parameters = {key: report[key] for key in _DESCRIBED_KEYS if report.get(key) is not None}
    weights = json.dumps(report.get("weights"), sort_keys=True).encode()
    server = (report.get("versions") or {}).get("maisi", "of unknown version")
    common = Dataset()
    common.SpecificCharacterSet = "ISO_IR 192"
    common.SyntheticData = "YES"
    common.PatientID = f"MAISI-{hashlib.sha256(subject.encode()).hexdigest()[:16]}"
    common.PatientName = "Synthetic^MAISI"
    common.PatientBirthDate = common.PatientSex = None
    common.PatientComments = "Synthetic image"
    common.StudyInstanceUID = _uid(subject, "study")
    common.StudyID = common.PatientID[-16:]
    common.StudyDate = common.StudyTime = None
    common.AccessionNumber = common.ReferringPhysicianName = None
    common.StudyDescription = "MAISI synthetic"
    common.SeriesInstanceUID = series
    common.SeriesNumber = 1
    common.SeriesDescription = " ".join(
        f"seed {value}" if key == "seed" else str(value)
        for key, value in list(parameters.items())[:3]
    )[:59]
    common.Laterality = None
    common.PatientPosition = "HFS"
    common.FrameOfReferenceUID = _uid(subject, "frame of reference")
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
    inputs += ["a volume that was given"] if "strength" in report else []
    common.DerivationDescription = f"Made by a generative model (MAISI) from {', '.join(inputs)}"
    common.SamplesPerPixel, common.PhotometricInterpretation = 1, "MONOCHROME2"
    common.BitsAllocated, common.BitsStored, common.HighBit = 16, 16, 15
    common.PixelRepresentation = 1
    return common
