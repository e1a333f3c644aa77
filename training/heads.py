"""The heads that subjects are drawn from: labels, texture of the T1, distances to borders."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from . import anatomy as a
from . import sources
from .anatomy import Labels
from .sources import SHAPE, Image, Mask


@dataclass(frozen=True)
class Head:
    """A head `[181, 217, 181]` at 1 mm, RAS+: labels, and maps that a subject is drawn with.

    `texture` is in units of 1 / UNIT standard deviations; `white_border` is the distance in 0.1 mm
    to the border of white matter and cortex, positive in white matter, `pial_border` that to the
    border of cortex and fluid, positive in the cortex.
    """

    labels: Labels
    texture: NDArray[np.int8]
    white_border: NDArray[np.int8]
    pial_border: NDArray[np.int8]


# Groups of labels; `_texture` subtracts a smooth intensity from each.
_CLASSES = (
    a.GREY_MATTER,
    a.WHITE_MATTER,
    *(a.PAIRS[name] for name in ("caudate", "putamen", "pallidum", "thalamus")),
    a.FLUID,
    (a.SKULL,),
    (a.MUSCLE,),
    (a.FAT,),
    (a.SKIN,),
)
_SMOOTH = 4.0  # mm
UNIT = 40  # of a texture; int8 reaches three standard deviations


def _texture(labels: Labels, head: Image) -> NDArray[np.int8]:
    """Return a T1 minus the smooth intensity of each tissue, as `Head.texture`.

    The standard deviation is estimated by the median absolute deviation of the class. It is at
    least 2 % of the mean, so that a clipped scan, as in S1's white matter, is not amplified.
    """
    out = np.zeros(SHAPE, np.int8)
    for ids in _CLASSES:
        tissue = np.isin(labels, ids)
        if not tissue.any():
            continue
        part = ndimage.find_objects(tissue.view(np.uint8))[0]
        inside, values = tissue[part], head[part]
        weight = ndimage.gaussian_filter(inside.astype(np.float32), _SMOOTH)
        smooth = ndimage.gaussian_filter(values * inside, _SMOOTH) / np.maximum(weight, 1e-6)
        rest = (values - smooth)[inside]
        deviation = max(
            1.4826 * float(np.median(np.abs(rest))), 0.02 * float(values[inside].mean())
        )
        # half of it at the tissue's surface, where it is mostly partial volume
        core = ndimage.binary_erosion(inside)[inside]
        out[part][inside] = np.clip(rest / deviation * (0.5 + 0.5 * core), -3, 3) * UNIT
    return out


def _border(inner: Mask, outer: Mask) -> NDArray[np.int8]:
    """Return the signed distance to the border of two touching tissues in 0.1 mm, at most 12 mm.

    It is positive in `inner`, negative in `outer`, and undefined elsewhere.
    """
    out = np.zeros(SHAPE, np.int8)
    part = ndimage.find_objects((inner | outer).view(np.uint8))[0]
    to_inner, to_outer = (ndimage.distance_transform_edt(~mask[part]) for mask in (inner, outer))
    distance = to_outer - to_inner
    out[part] = np.clip(10 * distance - 5 * np.sign(distance), -120, 120)
    return out


def make_head(labels: Labels, texture: NDArray[np.int8]) -> Head:
    """Return a head with the maps that follow from its labels."""
    cortex = labels == a.GREY
    white = np.isin(labels, a.PAIRS["white"])
    return Head(labels, texture, _border(white, cortex), _border(cortex, labels == a.CSF))


def _noise() -> NDArray[np.int8]:
    """Return the texture of a head without a scan: the same smooth noise each time.

    Its deviation is half that of a T1, hence 1.5 to 3 % of a tissue's intensity.
    """
    noise = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, 1.5)
    return np.asarray(np.clip(noise / noise.std() / 2, -3, 3) * UNIT, np.int8)


def heads(cache: Path) -> list[Head]:
    """Return Colin27, S1, and ICBM152 in Colin's skull.

    Raises CalledProcessError where the download of a package fails.
    """
    file = cache / "heads.npz"
    maps = [field.name for field in fields(Head)]
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        brain, space, head = a.colin(sources.debian_templates(cache))
        outer = a.outer_head(head, space)
        colin = np.where(space, brain, outer)
        s1_brain, s1_space, s1_head = a.s1(sources.pycortex_subject(cache), space)
        s1 = np.where(s1_space, s1_brain, a.outer_head(s1_head, s1_space))
        other, other_space = a.icbm()
        icbm = np.where(other_space, other, np.where(space, np.uint8(a.CSF), outer))
        texture = _texture(colin, head)
        made = (
            make_head(colin, texture),
            make_head(s1, _texture(s1, s1_head)),
            make_head(icbm, np.where(space | other_space, _noise(), texture)),
        )
        arrays = {f"{i}_{name}": getattr(h, name) for i, h in enumerate(made) for name in maps}
        np.savez_compressed(file, **arrays)
    with np.load(file) as data:
        return [Head(*(data[f"{i}_{name}"] for name in maps)) for i in range(3)]
