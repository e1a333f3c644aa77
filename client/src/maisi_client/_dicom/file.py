"""Read DICOM files that are not larger than a volume that can be sent."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._image_file import MAX_BYTES

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# The exceptions of pydicom and highdicom for an incomplete file.
DICOM_ERRORS = (
    *(AttributeError, EOFError, IndexError, KeyError, MemoryError, NotImplementedError, OSError),
    *(RuntimeError, TypeError, ValueError),
)


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Return whether a file has the header of PS3.10: any 128 bytes, then `DICM`."""
    if not os.path.isfile(path):  # a read from a pipe could block
        return False
    try:
        with Path(path).open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom(path: str | os.PathLike[str], **options: Any) -> Dataset:
    """Return the dataset of a file.

    Raises ValueError if the whole file is deflated, and one of `DICOM_ERRORS` if it cannot be read.
    """
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise ValueError("the whole file is deflated, so its size is unknown")
    return dcmread(path, **options)


def check_size(*sides: int) -> None:
    """Raise ValueError if a file with these sides, in voxels of 2 bytes, is too large."""
    if 2 * math.prod(map(int, sides)) > MAX_BYTES:
        raise ValueError(f"it has {' x '.join(map(str, sides))} voxels, more than can be read")
