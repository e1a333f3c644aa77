"""The arguments of a request, and their conversion to tensors."""

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
from ._validation import excerpt

Picture: TypeAlias = "str | os.PathLike[str] | SpatialImage"


class MaskArguments(TypedDict, total=False):
    """The arguments of `Client.mask`; an omitted one takes the variant's default.

    Attributes:
        variant: the name of the variant; by default that in the environment variable
            `MAISI_VARIANT`, else the only variant of the server.
        vocabulary: the vocabulary of the mask's label ids, such as `totalsegmentator-v2`, if they
            are not MAISI's.
        anatomy: sizes from which the server generates the mask, from 0 to 1, or -1 for absent, such
            as `{"liver": 0.5, "hepatic tumor": 0.3}`; `Variant.anatomy` lists the names.
        organs: the labels, names or ids, that the returned mask keeps.
        augment: if true, the server changes the mask a little, by the seed: a tumour moves within
            its organ, or the whole mask is scaled.
        size: voxels `[X, Y, Z]`, for a request without a mask.
        spacing: mm along right, anterior, superior, or one length for all. With a mask, the server
            works at this spacing: it gets the labels resampled by nearest neighbour, and its volume
            is resampled to the grid of the mask by linear interpolation.
        seed: the same seed, mask and arguments give the same volume; by default it is random.
        traceparent: the W3C trace context that the server's spans continue; by default that of the
            active span of OpenTelemetry.
    """

    variant: str | None
    vocabulary: str | None
    anatomy: str | Mapping[str, float] | None
    organs: str | Sequence[str | int] | None
    augment: bool | None
    size: Sequence[int] | None
    spacing: float | Sequence[float] | None
    seed: int | None
    traceparent: str | None


class Arguments(MaskArguments, total=False):
    """The arguments of `Client.generate`, beside those of `MaskArguments`.

    Attributes:
        source: a volume to start from, on the grid of the mask: CT in HU, MR in any unit.
        strength: the amount of noise added to the source, 0 to 1: 1 is noise alone, 0 the
            autoencoder's reconstruction of the source.
        preset: the name of a size, spacing and modality that the variant was trained for.
        modality: such as `ct` or `mri_t1`; `Client.info` lists them.
        steps: the number of steps of the solver.
        guidance: the scale of classifier-free guidance; 0 disables it.
        guidance_interval: the interval `[low, high]` of the time, 0 at the image and 1 at noise, in
            which guidance is applied; a step outside it takes half the time.
        solver: the name of a solver, such as `euler`, `heun` or `ab2`.
        top_region: the body region at the top, for variants with body regions; by default it is
            that of the mask.
        bottom_region: the body region at the bottom, for variants with body regions.
        redraws: how often a volume that does not follow its mask is generated again, at most; the
            best volume is returned, and the report lists all attempts.
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
    """Return the arguments that are not None, with a seed.

    A missing seed is drawn from 0..2**32 - 1, here, so that every retry makes the same volume. A
    missing variant is that of `MAISI_VARIANT`, if it is set. Raises TypeError for a name that is
    not an argument, `InvalidRequest` for a variant that is not a name.
    """
    for name in arguments:
        if name not in ARGUMENTS:
            raise TypeError(f"'{name}' is not an argument; {', '.join(ARGUMENTS)} are")
    values = {name: value for name, value in arguments.items() if value is not None}
    variant = values.get("variant") or os.environ.get("MAISI_VARIANT")
    if variant is not None and (not isinstance(variant, str) or variant != printable(variant)):
        raise InvalidRequest(f"variant is {excerpt(variant)}; a name is expected")
    variants = {"variant": variant} if variant else {}
    return {"seed": secrets.randbelow(2**32), **values, **variants}


def tensors(arguments: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the tensors of all arguments but the pictures and spacing; raises `InvalidRequest`."""
    return {name: _TENSORS[name](name, arguments[name]) for name in arguments if name in _TENSORS}


def _integers(name: str, values: Any, dtype: type[np.signedinteger[Any]]) -> NDArray[Any]:
    limits = np.iinfo(dtype)
    try:
        integers = [operator.index(value) for value in values]
        if all(limits.min <= value <= limits.max for value in integers):
            return np.array(integers, dtype)
    except TypeError:
        pass
    raise InvalidRequest(f"{name} is {values!r}; whole numbers of {limits.bits} bits are expected")


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
        raise InvalidRequest(f"{name} is {value!r}; a number is expected") from None


def _pair(name: str, values: Any) -> NDArray[Any]:
    try:
        low, high = values
        with np.errstate(over="ignore"):
            return np.array([float(low), float(high)], np.float32)
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequest(f"{name} is {values!r}; two numbers are expected") from None


def _text(name: str, value: Any) -> NDArray[Any]:
    return np.array([str(value).encode(errors="replace")], np.object_)


def _flag(name: str, value: Any) -> NDArray[Any]:
    return np.array([bool(value)])


def sizes_text(value: Any) -> str:
    """Return the sizes of an anatomy as the text that commands, plans and the server take."""
    if isinstance(value, Mapping):
        return ", ".join(f"{anatomy}={size}" for anatomy, size in value.items())
    return str(value)


def _sizes(name: str, value: Any) -> NDArray[Any]:
    return _text(name, sizes_text(value))


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
