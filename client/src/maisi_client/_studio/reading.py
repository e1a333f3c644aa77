"""Read uploads: a NIfTI file, a DICOM Segmentation, or the DICOM series of one folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._dicom.file import is_dicom
from .._dicom.segmentation_reader import OWN, is_segmentation
from .._dicom.series_reader import read_series
from .._errors import InvalidRequest, MaisiError
from .._grid import restore
from .._image_file import SUFFIXES
from .._mask import load_greys, load_mask
from .multipart import Upload
from .pictures import Picture, Pictures, save_greys, save_mask

_INT16 = np.iinfo(np.int16)


def read_upload(kind: str, uploads: Sequence[Upload], pictures: Pictures) -> Picture:
    """Return the picture of the files of one upload; `kind` is `mask` or `volume`.

    The picture is stored as NIfTI: a mask as uint8, a volume as int16 if its values allow that, or
    else as float32. Raises `InvalidRequest`, with the name of the file in the browser, if the files
    are not such a picture.
    """
    upload = _main_file(kind, uploads)
    title = upload.folder if len(uploads) > 1 and upload.folder else upload.name
    try:
        if kind == "mask":
            labels = load_mask(upload.path)
            image = restore(labels.values, labels.spacing, labels)
            read_by_name = labels.named or labels.image.extra.get("vocabulary") == OWN
            parts: dict[str, Any] = {
                "vocabulary": OWN if read_by_name else None,
                "warnings": tuple(_named(text, upload) for text in labels.warnings),
            }
            name = pictures.reserve(_stem(title))
            return save_mask(pictures.folder, image, name, title, **parts)
        series = is_dicom(upload.path) and read_series([one.path for one in uploads])
        greys = load_greys(series or upload.path)
        values = greys.values
        if _INT16.min <= values.min() and values.max() <= _INT16.max:
            whole = values.astype(np.int16)
            values = whole if np.array_equal(whole, values) else values
        image = restore(values, greys.spacing, greys)
        name = pictures.reserve(_stem(title))
        return save_greys(pictures.folder, image, name, title)
    except MaisiError as error:
        raise type(error)(_named(str(error), upload), error.kind) from error


def _main_file(kind: str, uploads: Sequence[Upload]) -> Upload:
    """Return the file of the picture, or the first file of its series."""
    if len(uploads) == 1:
        return uploads[0]
    dicom = [upload for upload in uploads if is_dicom(upload.path)]
    if not dicom:
        raise InvalidRequest(
            f"{len(uploads)} files were sent, and none is DICOM; one NIfTI file or the DICOM files"
            " of one folder are expected"
        )
    if kind == "volume":
        return dicom[0]
    masks = [upload for upload in dicom if is_segmentation(upload.path)]
    if len(masks) != 1:
        raise InvalidRequest(
            f"{len(masks)} of {len(uploads)} files are Segmentations; one is expected"
        )
    return masks[0]


def _named(text: str, upload: Upload) -> str:
    return text.replace(str(upload.path), upload.name)


def _stem(name: str) -> str:
    lower = name.lower()
    for suffix in (*SUFFIXES, ".dcm"):
        if lower.endswith(suffix):
            return name[: -len(suffix)]
    return name
