"""The provenance of a volume: its request, and digests of its inputs and outputs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ._request import Request


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


def json_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments for JSON: files by their absolute path, other pictures as None."""
    return {
        name: _json_value(name, value) for name, value in arguments.items() if value is not None
    }


def _json_value(name: str, value: Any) -> Any:
    if name in ("mask", "source"):
        file = value if isinstance(value, (str, os.PathLike)) else value.get_filename()
        return file and os.path.abspath(file)
    if isinstance(value, Mapping):
        return {key: float(size) for key, size in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return value
    return [one.item() if isinstance(one, np.generic) else one for one in value]
