"""What a request may ask, and the tensors it becomes."""

from __future__ import annotations

import operator
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from ._errors import InvalidRequest, printable
from ._wire import shown

Picture: TypeAlias = "str | os.PathLike[str] | SpatialImage"


class MaskArguments(TypedDict, total=False):
    """What `Client.mask` may be asked; what is left out takes the variant's default.

    variant: which model; by default that of the environment variable `MAISI_VARIANT`, else the only
        one that the server has.
    vocabulary: names the label ids of the mask, such as `totalsegmentator-v2`, where they are not
        MAISI's.
    anatomy: has the server make the mask, such as `{"liver": 0.5, "hepatic tumor": 0.3}`: sizes 0
        to 1 of what is controllable.
    organs: the labels, names or ids, that the mask given back keeps.
    augment: makes the mask a little different, by the seed: a tumour moves within its organ, or all
        is zoomed.
    size: voxels `[X, Y, Z]`, where no mask says them.
    spacing: mm along right, anterior, superior, or one length for all. With a mask, the server
        works on another grid: labels are resampled by nearest neighbour, and the volume comes back
        to the mask's own grid by linear interpolation.
    seed: the same seed, mask and arguments give the same volume; one is drawn if there is none.
    """

    variant: str | None
    vocabulary: str | None
    anatomy: str | Mapping[str, float] | None
    organs: str | Sequence[str | int] | None
    augment: bool | None
    size: Sequence[int] | None
    spacing: float | Sequence[float] | None
    seed: int | None


class Arguments(MaskArguments, total=False):
    """What `Client.generate` may be asked, beside what `MaskArguments` lists.

    source: a volume to start from, in Hounsfield units or, for MR, in any; on the mask's grid.
    strength: how much noise is put on the source: 1 is noise alone, 0 the autoencoder's own picture
        of it.
    preset: names a size, spacing and modality that the variant was trained for.
    modality: such as `ct` or `mri_t1`; `Client.info` lists them.
    steps: how many steps the solver takes.
    guidance: scale of classifier-free guidance; 0 is off.
    guidance_interval: the `[low, high]` part of the way, 0 at the image and 1 at noise, where
        guidance is applied; elsewhere a step costs half.
    solver: such as `euler`, `heun`, `ab2`.
    top_region, bottom_region: of variants that have body regions; there, what is left out is found
        in the mask.
    redraws: how often a volume that does not follow its mask is made again; the best is given, the
        report tells of all.
    """

    source: Picture | None
    strength: float | None
    preset: str | None
    modality: str | None
    steps: int | None
    guidance: float | None
    guidance_interval: Sequence[float] | None
    solver: str | None
    top_region: str | None
    bottom_region: str | None
    redraws: int | None


ARGUMENTS = tuple(Arguments.__annotations__)


def complete(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that say something, with a seed, drawn if need be.

    The variant is that of `MAISI_VARIANT` where none is named, and left out without either.

    The seed is drawn here so that every try makes the same volume. Raises TypeError for a name that
    is no argument, `InvalidRequest` for a variant that is no name.
    """
    for name in arguments:
        if name not in ARGUMENTS:
            raise TypeError(f"'{name}' is no argument; {', '.join(ARGUMENTS)} are")
    values = {name: value for name, value in arguments.items() if value is not None}
    variant = values.get("variant") or os.environ.get("MAISI_VARIANT")
    if variant is not None and (not isinstance(variant, str) or variant != printable(variant)):
        raise InvalidRequest(f"variant is {shown(variant)}; a name is expected")
    named = {"variant": variant} if variant else {}  # it names the model
    return {"seed": secrets.randbelow(2**32), **values, **named}


def tensors(asked: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the tensor of each argument that has one by itself; raises `InvalidRequest`."""
    return {name: _TENSORS[name](name, asked[name]) for name in asked if name in _TENSORS}


def _integers(name: str, values: Any, dtype: type[np.signedinteger[Any]]) -> NDArray[Any]:
    limits = np.iinfo(dtype)
    try:
        whole = [operator.index(value) for value in values]
        if all(limits.min <= value <= limits.max for value in whole):
            return np.array(whole, dtype)
    except TypeError:
        pass
    raise InvalidRequest(f"{name} is {values!r}; whole numbers of {limits.bits} bits are wanted")


def _sides(name: str, value: Any) -> NDArray[Any]:
    return _integers(name, value, np.int32)


def _count(name: str, value: Any) -> NDArray[Any]:
    return _integers(name, [value], np.int32)


def _seed(name: str, value: Any) -> NDArray[Any]:
    return _integers(name, [value], np.int64)


def _number(name: str, value: Any) -> NDArray[Any]:
    try:
        with np.errstate(over="ignore"):
            return np.array([float(value)], np.float32)
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequest(f"{name} is {value!r}; a number is wanted") from None


def _pair(name: str, values: Any) -> NDArray[Any]:
    try:
        low, high = values
        with np.errstate(over="ignore"):
            return np.array([float(low), float(high)], np.float32)
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequest(f"{name} is {values!r}; two numbers are wanted") from None


def _text(name: str, value: Any) -> NDArray[Any]:
    return np.array([str(value).encode(errors="replace")], np.object_)


def _flag(name: str, value: Any) -> NDArray[Any]:
    return np.array([bool(value)])


def _sizes(name: str, value: Any) -> NDArray[Any]:
    if isinstance(value, Mapping):
        value = ", ".join(f"{anatomy}={size}" for anatomy, size in value.items())
    return _text(name, value)


def _names(name: str, value: Any) -> NDArray[Any]:
    return _text(name, value if isinstance(value, str) else ", ".join(map(str, value)))


_TENSORS: Mapping[str, Callable[[str, Any], NDArray[Any]]] = {
    "size": _sides,
    "seed": _seed,
    "steps": _count,
    "redraws": _count,
    "guidance": _number,
    "strength": _number,
    "guidance_interval": _pair,
    "check": _flag,
    "mask_only": _flag,
    "augment": _flag,
    "vocabulary": _text,
    "anatomy": _sizes,
    "organs": _names,
    "preset": _text,
    "modality": _text,
    "solver": _text,
    "top_region": _text,
    "bottom_region": _text,
}
NAMES = (*_TENSORS, "mask", "source", "spacing", "latent")  # of all inputs of a server
