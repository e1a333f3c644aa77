"""Downloads that are made on request: DICOM, and a plan."""

from __future__ import annotations

import secrets
import zipfile
from pathlib import Path

from .._datasets.plan import write_plan
from .._datasets.row import Row
from .._dicom.series import save_dicom
from .._volume import Volume
from .errors import Refused
from .pictures import Call, Picture, Pictures


def write_dicom(pictures: Pictures, picture: Picture, mask: Picture | None, folder: Path) -> Path:
    """Write the DICOM series of a volume, with its mask, as a .zip in `folder`; return its path.

    Raises `Refused` for a volume without a report, and the errors of `save_dicom`.
    """
    if picture.report is None:
        raise Refused(
            409,
            "invalid_request",
            f"'{picture.title}' was not generated, but its DICOM files would state that it was",
        )
    volume = Volume.load(pictures.path(picture))
    mask_file = pictures.path(mask) if mask is not None and volume.mask is None else None
    files = save_dicom(volume, folder / picture.name, mask=mask_file)
    path = folder / "dicom.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in files:
            archive.write(file, f"{picture.name}/{file.name}")
    return path


def plan_row(pictures: Pictures, call: Call) -> bytes:
    """Return a plan, a .csv with one row, with which `maisi dataset` makes the volume."""
    if call.method != "generate":
        raise Refused(409, "invalid_request", "a plan is for volumes, but this is a mask")
    arguments = dict(call.arguments)
    for name, file in (("mask", call.mask), ("source", call.source)):
        if file is not None:
            arguments[name] = pictures.folder / file
    path = pictures.folder / f"{secrets.token_hex(8)}.csv"
    try:
        return write_plan([Row(call.output, arguments)], path).read_bytes()
    finally:
        path.unlink(missing_ok=True)
