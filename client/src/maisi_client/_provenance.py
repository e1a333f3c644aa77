"""The provenance of a volume: its request, and digests of its inputs and outputs."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Collection, Mapping
from importlib.metadata import version
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from ._arguments import Picture
from ._mask import load_greys, load_mask
from ._request import Request
from ._validation import excerpt


def provenance(
    image: nib.Nifti1Image, used_mask: nib.Nifti1Image | None, request: Request, variant: str
) -> dict[str, Any]:
    """Return the entries that the client adds to the server's report.

    `request` has the arguments, including seed and `variant`, with which `Client.generate`
    reproduces the volume. Pictures that are not files are None. `sha256` has the digests of
    `image`, of `used_mask` if the server made or changed the mask, and of the request's `mask` and
    `source`.
    """
    digests = {"image": digest(np.asarray(image.dataobj), image.affine)}
    if used_mask is not None:
        digests["used_mask"] = digest(np.asarray(used_mask.dataobj), used_mask.affine)
    if request.reference is not None and request.labels is not None:
        digests["mask"] = digest(request.labels, request.reference.image.affine)
    if request.source is not None:
        digests["source"] = digest(request.source.values, request.source.image.affine)
    return {
        "request": json_arguments({"variant": variant, "mask": request.mask, **request.arguments}),
        "sha256": digests,
        "client": version("maisi-client"),
    }


def digest(values: NDArray[Any], affine: NDArray[Any]) -> str:
    """Return the SHA-256 of a picture: shape, data type, affine as float32 (as NIfTI), voxels."""
    voxels = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
    sha256 = hashlib.sha256(f"{voxels.shape} {voxels.dtype.name}".encode())
    sha256.update((np.asarray(affine, "<f4") + 0).tobytes())  # + 0: no negative zeros
    sha256.update(voxels.data)
    return sha256.hexdigest()


def picture_digest(role: str, picture: Picture, vocabulary: str | None) -> str:
    """Return the digest of the `mask` or the `source` of a request with this `vocabulary`.

    Raises `InvalidRequest` if the picture cannot be read.
    """
    ras = load_mask(picture, vocabulary) if role == "mask" else load_greys(picture)
    return digest(ras.values, ras.image.affine)


def json_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments for JSON: files by their absolute path, other pictures as None.

    A value that no request can have becomes the text that `repr` returns, cut if it is long.
    """
    return {
        name: _picture(value) if name in ("mask", "source") else _json_value(value)
        for name, value in arguments.items()
        if value is not None
    }


def _picture(value: Any) -> str | None:
    if isinstance(value, SpatialImage):
        value = value.get_filename()
        if value is None:
            return None
    if not isinstance(value, (str, os.PathLike)):
        return excerpt(value)
    return os.path.abspath(os.fsdecode(value)) if os.fspath(value) else ""


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _size(size) for key, size in value.items()}
    value = _plain(value)
    if isinstance(value, Collection) and not isinstance(value, (str, bytes)):
        return [_scalar(one) for one in value]
    return _scalar(value)


def _size(value: Any) -> Any:
    try:
        return _scalar(float(value))
    except (TypeError, ValueError, OverflowError):
        return _scalar(value)


def _plain(value: Any) -> Any:
    """Return an array or a scalar of numpy as a list or a number of Python."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _scalar(value: Any) -> Any:
    value = _plain(value)
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if isinstance(value, (str, int, float)) and finite else excerpt(value)
