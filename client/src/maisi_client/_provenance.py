"""Where a volume came from: what was asked, of what, and the digests that prove it the same."""

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
    image: nib.Nifti1Image, used: nib.Nifti1Image | None, request: Request, variant: str
) -> dict[str, Any]:
    """Return what a report says beside the server's own words.

    `request` has the arguments, seed and `variant` completed, with which `Client.generate` makes
    the volume again; pictures that were no files are None there. `sha256` has the digests of the
    `image`, of the mask that it follows if the server made one, and of the `mask` or `source` that
    was sent.
    """
    digests = {"image": digest(np.asarray(image.dataobj), image.affine)}
    if used is not None:
        digests["used_mask"] = digest(np.asarray(used.dataobj), used.affine)
    held = request.held
    if held is not None and request.labels is not None:
        digests["mask"] = digest(request.labels, held.image.affine)
    if request.source is not None:
        digests["source"] = digest(request.source.values, request.source.image.affine)
    return {
        "request": plain({"variant": variant, "mask": request.mask, **request.arguments}),
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


def plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as JSON has them: files by their absolute path, other pictures as None."""
    return {name: _plain(name, value) for name, value in arguments.items() if value is not None}


def _plain(name: str, value: Any) -> Any:
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
