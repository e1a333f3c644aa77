"""Write a volume as a DICOM series, and its mask as a Segmentation and an RT Structure Set."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from .._anatomy import NAMES
from .._atomic import atomic_folder
from .._errors import InvalidRequest
from .._grid import RasImage, same_grid, to_ras, voxel_digest
from .._mask import load_mask
from .._outputs import check_new_folder
from .._volume import Volume
from .images import content_uid, images
from .segmentation_reader import OWN
from .segmentation_writer import require_dicom, segmentation, segments
from .slice_grid import planes_of, slice_grid
from .structure_set import structure_set

_log = logging.getLogger("maisi_client")


def save_dicom(
    volume: Volume,
    to: str | os.PathLike[str],
    *,
    mask: str | os.PathLike[str] | SpatialImage | None = None,
    labels: Mapping[int, str] | None = None,
    labelmap: bool = False,
) -> list[Path]:
    """Write a volume as a CT or MR series into the new folder `to`, and the mask that it follows.

    The slices are `0001.dcm`, `0002.dcm` and so on, from the feet to the head, in the orientation
    nearest to axial. As in viewers, columns run to the left and rows to posterior. Voxels are not
    interpolated. `mask` is the label mask; by default it is the volume's own mask, if there is one.
    The mask is written as `mask.dcm`, a Segmentation (BINARY, or LABELMAP with `labelmap`), and as
    `structures.dcm`, an RT Structure Set with its contours. `labels` maps label ids to names; the
    default is MAISI's. UIDs are computed from the content: the same volume, mask and group always
    have the same UIDs. Volumes with the same mask belong to one study. A patient has all volumes of
    a `group` of the report; without a group it is the mask.

    Return the paths of the files, the slices first. Raises `InvalidRequest` if the report has no CT
    or MR modality, the affine is sheared, the mask is on another grid or empty, or `to` is the
    current folder or exists and is not empty; `MaisiError` without the extra `dicom`.
    """
    require_dicom("contourpy")
    to = Path(to)
    check_new_folder(to)
    ras_volume = to_ras("the volume", volume.image, InvalidRequest, _whole)
    grid = slice_grid("the volume", ras_volume)
    ras_mask = _mask(volume, mask, labels, ras_volume)
    with atomic_folder(to) as draft:
        headers, names = [], []
        for image in images(grid, ras_volume, volume.report, ras_mask):
            names.append(f"{image.InstanceNumber:04d}.dcm")
            image.save_as(draft / names[-1], enforce_file_format=True)
            del image.PixelData
            headers.append(image)
        if ras_mask is not None:
            label_names = NAMES if labels is None else labels
            planes = planes_of(ras_mask)
            described = segments(planes, label_names, volume.report)
            content = voxel_digest(ras_mask), repr(sorted(label_names.items()))
            of_images = headers[0].SeriesInstanceUID
            uid = content_uid(of_images, *content, *["LABELMAP"] * labelmap)
            dataset = segmentation(
                planes, headers, described, (uid, content_uid(uid, "1")), labelmap
            )
            dataset.save_as(draft / "mask.dcm", enforce_file_format=True)
            uid = content_uid(of_images, *content, "RTSTRUCT")
            dataset = structure_set(planes, grid, headers, described, (uid, content_uid(uid, "1")))
            dataset.save_as(draft / "structures.dcm", enforce_file_format=True)
            names += ["mask.dcm", "structures.dcm"]
    return [to / name for name in names]


def _mask(
    volume: Volume,
    mask: str | os.PathLike[str] | SpatialImage | None,
    labels: Mapping[int, str] | None,
    onto: RasImage,
) -> RasImage | None:
    """Return the mask to write; raises `InvalidRequest` if it does not belong to the volume."""
    vocabulary = volume.report.get("vocabulary", OWN)
    if mask is not None and labels is None and vocabulary != OWN:
        raise InvalidRequest(
            f"the mask was sent with the vocabulary '{vocabulary}'; omit it to use the mask that"
            " the server returned, or name its labels"
        )
    mask = volume.mask if mask is None else mask
    if mask is None:
        return None
    # The ids have the same meaning as in the request.
    request = volume.report.get("request") or {}
    ras_mask = load_mask(mask, request.get("vocabulary") if labels is None else OWN)
    for warning in ras_mask.warnings:
        _log.warning("%s", warning)
    if not same_grid(onto, ras_mask):
        raise InvalidRequest("the mask and the volume have different grids")
    if not ras_mask.values.any():
        raise InvalidRequest("the mask has no label; omit it")
    return ras_mask


def _whole(name: str, data: NDArray[Any]) -> NDArray[np.int16]:
    if data.dtype.kind in "buif":
        with np.errstate(invalid="ignore"):
            whole: NDArray[np.int16] = data.astype(np.int16)
        if np.array_equal(whole, data):
            return whole
    raise InvalidRequest(f"{name} has values other than whole numbers from -32768 to 32767")
