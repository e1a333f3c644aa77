"""Read a CT or MR series from a folder that may have other files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from .._errors import InvalidRequest, first_line
from .file import DICOM_ERRORS, check_size, is_dicom, read_dicom
from .segmentation_writer import require_dicom

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SIDES = ("Rows", "Columns")
_TAGS = (
    *("SOPClassUID", "SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient"),
    *("PixelSpacing", *_SIDES, "SamplesPerPixel", "NumberOfFrames"),
)


def read_series(paths: Sequence[Path]) -> nib.Nifti1Image:
    """Return the only series of single-frame slices among DICOM files: float32, HU for CT.

    Other files, such as a Segmentation, are ignored. Raises `InvalidRequest` if there is no series
    or more than one, and if its slices do not form a regular grid.
    """
    require_dicom()
    import highdicom as hd

    series: dict[str, list[tuple[Path, Dataset]]] = {}
    for path in filter(is_dicom, paths):
        try:
            header = read_dicom(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        except DICOM_ERRORS:
            continue  # incomplete, or not an image
        if _is_slice(header):
            series.setdefault(str(header.get("SeriesInstanceUID")), []).append((path, header))
    if len(series) != 1:
        raise InvalidRequest(
            f"the files have {len(series) or 'no'} series of slices; one series is expected"
        )
    (slices,) = series.values()
    try:
        rows, columns = (max(int(header[side].value) for _, header in slices) for side in _SIDES)
        check_size(2 * len(slices), rows, columns)  # float32 has twice the bytes
        volume = hd.get_volume_from_series(
            [read_dicom(path) for path, _ in slices],
            dtype=np.float32,
            apply_real_world_transform=False,
        )
    except DICOM_ERRORS as error:
        raise InvalidRequest(
            f"the series is not a volume on a regular grid: {first_line(error)}"
        ) from error
    # The axes are columns, rows and slices. DICOM's axes point left, posterior and superior.
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine[:, [2, 1, 0, 3]]
    image = nib.Nifti1Image(volume.array.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    return image


def _is_slice(header: Dataset) -> bool:
    grey = header.get("SamplesPerPixel", 1) == 1 and header.get("NumberOfFrames", 1) == 1
    return grey and all(tag in header for tag in (*_SIDES, "ImagePositionPatient", "PixelSpacing"))
