"""Reading of DICOM files, without unpacking more than can be sent."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._image_file import MAX_BYTES

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Raised by pydicom and highdicom for an incomplete file.
DICOM_ERRORS = (
    *(AttributeError, EOFError, IndexError, KeyError, MemoryError, NotImplementedError, OSError),
    *(RuntimeError, TypeError, ValueError),
)


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins as PS3.10 requires: 128 bytes of anything, then DICM."""
    if not os.path.isfile(path):  # reading a pipe could block
        return False
    try:
        with Path(path).open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom(path: str | os.PathLike[str], **options: Any) -> Dataset:
    """Read a file, unless it is deflated as a whole.

    Raises ValueError for a deflated one, and another of `DICOM_ERRORS` if it cannot be read.
    """
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise ValueError("it is deflated as a whole, and may unpack to any size")
    return dcmread(path, **options)


def check_size(*sides: int) -> None:
    """Raise ValueError for more voxels, of 2 bytes, than a file may have."""
    if 2 * math.prod(map(int, sides)) > MAX_BYTES:
        raise ValueError(f"it has {' x '.join(map(str, sides))} voxels, more than can be read")
