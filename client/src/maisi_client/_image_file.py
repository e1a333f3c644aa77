"""Image files, opened by a header that promises no more than can be sent."""

from __future__ import annotations

import math
import os
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Extensions
from nibabel.spatialimages import HeaderDataError, HeaderTypeError, SpatialImage

# Of a file's voxels as they are in memory. The largest grid of a variant, 512 x 512 x 768, has
# 1.5 GiB in float64; a finer one may come, since it is resampled before it is sent.
MAX_BYTES = 4 << 30
READ_ERRORS = (
    *(OSError, EOFError, ValueError, OverflowError, MemoryError, zlib.error),
    *(ImageFileError, HeaderDataError, HeaderTypeError),
)
_SUFFIXES = (".nii", ".nii.gz", ".mgh", ".mgz")  # what bzip2 and zstd unpack to has no bound
_GZIP_RATIO = 1032  # what deflate can make of a byte at most: https://zlib.net/zlib_tech.html


class _NoExtensions(Nifti1Extensions):  # type: ignore[misc]
    """Leaves extensions unread: nobody needs them, and they say themselves how long they are."""

    @classmethod
    def from_fileobj(cls, *_: Any) -> _NoExtensions:
        return cls()


class _Nifti1Header(nib.Nifti1Header):  # type: ignore[misc]
    exts_klass = _NoExtensions


class _Nifti2Header(nib.Nifti2Header):  # type: ignore[misc]
    exts_klass = _NoExtensions


class _Nifti1(nib.Nifti1Image):  # type: ignore[misc]
    header_class = _Nifti1Header


class _Nifti2(nib.Nifti2Image):  # type: ignore[misc]
    header_class = _Nifti2Header


def load(path: str | os.PathLike[str]) -> SpatialImage:
    """Open a NIfTI or MGH file, its data not read yet.

    Raises ValueError where the header promises more than `MAX_BYTES`, or more than the file can
    hold, and another of `READ_ERRORS` where it cannot be read.
    """
    if not os.fspath(path).lower().endswith(_SUFFIXES):
        raise ImageFileError(f"its name ends in none of {', '.join(_SUFFIXES)}")
    sniff = None
    for kind in (_Nifti1, _Nifti2, nib.MGHImage):
        fits, sniff = kind.path_maybe_image(path, sniff)
        if fits:
            image = kind.from_filename(path)
            _check_promise(Path(path), image)
            return image
    raise ImageFileError("it is neither NIfTI nor MGH inside")


def _check_promise(path: Path, image: Any) -> None:
    proxy, size = image.dataobj, path.stat().st_size
    scaled = (proxy.slope, proxy.inter) != (1, 0)  # to float64, whatever is stored
    voxels = math.prod(map(int, image.shape))
    promise = f"its header promises {list(image.shape)} voxels of {proxy.dtype}"
    if int(proxy.offset) + voxels * max(proxy.dtype.itemsize, 8 * scaled) > MAX_BYTES:
        raise ValueError(f"{promise} from byte {proxy.offset} on; {MAX_BYTES} bytes are allowed")
    packed = path.suffix.lower() in (".gz", ".mgz")
    if int(proxy.offset) + voxels * proxy.dtype.itemsize > size * _GZIP_RATIO and packed:
        raise ValueError(f"{promise}; a file of {size} bytes cannot hold them")
