"""Open image files whose headers do not claim more voxels than can be sent."""

from __future__ import annotations

import math
import os
import sys
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHError
from nibabel.nifti1 import Nifti1Extension, Nifti1Extensions
from nibabel.spatialimages import HeaderDataError, HeaderTypeError, SpatialImage

# Of a file's voxels in memory. The largest grid of a variant, 512 x 512 x 768, has 1.5 GiB in
# float64; a finer one is allowed, since it is resampled before it is sent.
MAX_BYTES = 4 << 30
READ_ERRORS = (
    *(OSError, EOFError, ValueError, OverflowError, MemoryError, zlib.error),
    *(ImageFileError, HeaderDataError, HeaderTypeError),
)
SUFFIXES = (".nii", ".nii.gz", ".mgh", ".mgz")  # bzip2 and zstd may unpack to any size
_MAX_TEXT = 1 << 20  # bytes of a header's extensions that are read
_METRE, _MICRON, _LENGTH_UNITS = 1, 3, 7  # of NIfTI's xyzt_units, and the bits for lengths
_GZIP_RATIO = 1032  # the largest of deflate: https://zlib.net/zlib_tech.html


class _Text(Nifti1Extensions):  # type: ignore[misc]
    """Extensions as texts, which may contain the names of labels."""

    @classmethod
    def from_fileobj(cls, file: Any, size: int, byteswap: bool) -> _Text:
        content, texts, start = file.read(min(int(size) % 2**63, _MAX_TEXT)), [], 0
        order = ("<i4", ">i4")[byteswap == (sys.byteorder == "little")]
        while start + 8 < len(content):
            # An extension begins with its length; with an invalid length, it gets all the rest.
            length = int(np.frombuffer(content, order, 1, start)[0])
            end = start + length if length > 8 else len(content)
            texts.append(Nifti1Extension(0, content[start + 8 : end]))
            start = end
        return cls(texts)


class _Checked:
    """A header that requires valid voxel lengths; nibabel would replace invalid ones by 1."""

    exts_klass = _Text

    @staticmethod
    def _chk_pixdims(header: Any, fix: bool = False) -> Any:
        lengths = header["pixdim"][1:4]
        if not header["sform_code"] > 0 and not np.all(np.isfinite(lengths) & (lengths > 0)):
            raise HeaderDataError(
                f"its pixdim, the spacing, is {lengths.tolist()}; lengths above 0 are expected"
            )
        return nib.Nifti1Header._chk_pixdims(header, fix)


class _Nifti1Header(_Checked, nib.Nifti1Header):  # type: ignore[misc]
    pass


class _Nifti2Header(_Checked, nib.Nifti2Header):  # type: ignore[misc]
    pass


class _Nifti1(nib.Nifti1Image):  # type: ignore[misc]
    header_class = _Nifti1Header


class _Nifti2(nib.Nifti2Image):  # type: ignore[misc]
    header_class = _Nifti2Header


def load(path: str | os.PathLike[str]) -> SpatialImage:
    """Open a NIfTI or MGH file without reading its data.

    Raises ValueError if the header claims more than `MAX_BYTES`, or more than the file can contain,
    and another of `READ_ERRORS` if the file cannot be read.
    """
    if not os.fspath(path).lower().endswith(SUFFIXES):
        raise ImageFileError(f"its name ends in none of {', '.join(SUFFIXES)}")
    sniff = None
    for kind in (_Nifti1, _Nifti2, nib.MGHImage):
        fits, sniff = kind.path_maybe_image(path, sniff)
        if fits:
            try:
                image = kind.from_filename(path)
            except (KeyError, TypeError, MGHError) as error:  # of a damaged MGH header
                raise ImageFileError("its header is damaged") from error
            _check_claim(Path(path), image)
            return image
    raise ImageFileError("its content is neither NIfTI nor MGH")


def in_mm(image: SpatialImage) -> SpatialImage:
    """Return an image whose header and affine are in mm, converted from a NIfTI header's unit.

    Without a unit the lengths are mm, as in ITK.
    """
    header = image.header
    if not isinstance(header, nib.Nifti1Header):
        return image
    factor = {_METRE: 1e3, _MICRON: 1e-3}.get(int(header["xyzt_units"]) & _LENGTH_UNITS)
    if factor is None:
        return image
    header = header.copy()
    header["pixdim"][1:4] *= factor
    for field in ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"):
        header[field] *= factor
    header.set_xyzt_units("mm")
    affine = None if image.affine is None else header.get_best_affine()
    return type(image)(image.dataobj, affine, header, image.extra, image.file_map)


def _check_claim(path: Path, image: Any) -> None:
    proxy, size = image.dataobj, path.stat().st_size
    scaled = (proxy.slope, proxy.inter) != (1, 0)  # to float64, whatever is stored
    voxels = math.prod(map(int, image.shape))
    claim = f"its header promises {list(image.shape)} voxels of {proxy.dtype}"
    if int(proxy.offset) + voxels * max(proxy.dtype.itemsize, 8 * scaled) > MAX_BYTES:
        raise ValueError(f"{claim} from byte {proxy.offset} on; {MAX_BYTES} bytes are allowed")
    packed = path.suffix.lower() in (".gz", ".mgz")
    if int(proxy.offset) + voxels * proxy.dtype.itemsize > size * _GZIP_RATIO and packed:
        raise ValueError(f"{claim}; a file of {size} bytes cannot hold them")
