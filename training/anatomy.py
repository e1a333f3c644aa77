"""Labels of three heads at 1 mm in MNI space, made from data of PyPI and Debian packages.

Colin27 (`ch2`, Debian `mricron-data`) and S1 (pycortex) are scans of two people; the ICBM152 2009a
average with its tissue maps (nilearn) is a third brain, in Colin's skull. Tissues follow from the
images, S1's cortex from its surfaces; the deep grey nuclei, ventricles, cerebellum and brain stem
are ellipsoids in MNI space, positioned by eye and intersected with the tissue. They are plausible
at 2 mm; they are no atlas.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from . import sources
from .sources import ORIGIN, SHAPE, Image, Mask

Labels = NDArray[np.uint8]

CSF, GREY, SKULL, MUSCLE, FAT, SKIN = 131, 22, 120, 156, 157, 168
WMH, TUMOUR = 150, 176
THIRD, FOURTH, STEM = 214, 215, 220
# name: (right, left) ids of MAISI's vocabulary (upstream configs/label_dict_ctmr.json)
PAIRS = {
    "amygdala": (218, 219),
    "caudate": (221, 222),
    "cerebellum": (223, 224),
    "cerebellum_white": (225, 226),
    "white": (227, 228),
    "hippocampus": (229, 230),
    "lateral_ventricle": (233, 234),
    "pallidum": (235, 236),
    "putamen": (237, 238),
    "thalamus": (239, 240),
}
FLUID = (CSF, THIRD, FOURTH, *PAIRS["lateral_ventricle"])
# Grey and white matter with the structures of about their intensity.
BASAL_GANGLIA = (*PAIRS["caudate"], *PAIRS["putamen"], *PAIRS["pallidum"])
GREY_MATTER = (GREY, *PAIRS["cerebellum"], *PAIRS["hippocampus"], *PAIRS["amygdala"])
WHITE_MATTER = (*PAIRS["white"], *PAIRS["cerebellum_white"], STEM)
# centre and radii in mm for the right side, MNI; the left mirrors x
NUCLEI = (
    ("thalamus", (11, -19, 8), (9, 14, 8), "brain"),
    ("caudate", (12, 14, 8), (6, 9, 10), "brain"),
    ("caudate", (16, -3, 20), (4, 16, 5), "grey"),
    ("putamen", (27, 4, 1), (6, 15, 9), "brain"),
    ("pallidum", (20, -3, -1), (5, 8, 6), "brain"),
    ("hippocampus", (27, -23, -13), (8, 16, 6), "grey"),
    ("amygdala", (22, -4, -18), (8, 7, 7), "grey"),
)


def _ball(radius: int) -> Mask:
    grid = np.indices((2 * radius + 1,) * 3) - radius
    return np.asarray((grid**2).sum(0) <= radius**2)


def _close(mask: Mask, mm: int) -> Mask:
    """Return the closing by `mm`; distance transforms cost the same for any radius."""
    near = ndimage.distance_transform_edt(~np.pad(mask, mm)) <= mm
    return np.asarray(ndimage.distance_transform_edt(near) > mm)[(slice(mm, -mm),) * 3]


def _ellipsoid(centre: tuple[float, ...], radii: tuple[float, ...]) -> Mask:
    grid = [np.arange(n) + o for n, o in zip(SHAPE, ORIGIN, strict=True)]
    parts = [((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)]
    return np.asarray(
        parts[0][:, None, None] + parts[1][None, :, None] + parts[2][None, None, :] <= 1
    )


def outer_head(head: Image, intracranial: Mask) -> Labels:
    """Return skin, fat, muscle and skull by T1 intensity outside the intracranial space."""
    body = ndimage.binary_opening(head > 22, _ball(1))
    components, _ = ndimage.label(body)
    body = components == np.bincount(components.ravel())[1:].argmax() + 1
    body = _close(np.pad(body, ((0, 0), (0, 0), (12, 0)), mode="edge"), 6)[:, :, 12:] | intracranial
    body = np.asarray(ndimage.binary_fill_holes(body))
    depth = ndimage.distance_transform_edt(np.pad(body, ((1, 1), (1, 1), (0, 1))))[1:-1, 1:-1, :-1]
    smooth = ndimage.gaussian_filter(head, 0.7)
    to_brain = ndimage.distance_transform_edt(~intracranial)
    labels = np.zeros(SHAPE, np.uint8)
    outside = body & ~intracranial
    labels[outside] = MUSCLE
    labels[outside & (smooth > 105)] = FAT
    labels[outside & (smooth < 52)] = SKULL
    labels[outside & (to_brain <= 2.5)] = SKULL  # the inner table closes the vault
    labels[outside & (depth <= 2.5)] = SKIN
    return labels


def _brain(grey: Mask, white: Mask, intracranial: Mask) -> Labels:
    """Return MAISI's brain labels `[181, 217, 181]` of tissue classes."""
    x, y, z = np.meshgrid(
        *[np.arange(n) + o for n, o in zip(SHAPE, ORIGIN, strict=True)], indexing="ij", sparse=True
    )
    right = np.broadcast_to(x >= 0, SHAPE)
    labels = np.zeros(SHAPE, np.uint8)

    def paint(region: Mask, name: str) -> None:
        labels[region & right], labels[region & ~right] = PAIRS[name]

    labels[intracranial] = CSF
    labels[grey] = GREY
    paint(white, "white")
    fluid = intracranial & ~grey & ~white
    brain = grey | white
    posterior = _ellipsoid((0, -64, -38), (56, 38, 27)) & (z < -12 - 0.25 * (y + 60)) & (y < -36)
    paint(posterior & grey, "cerebellum")
    paint(posterior & white, "cerebellum_white")
    labels[brain & _ellipsoid((0, -28, -36), (16, 13, 30)) & (z < -8)] = STEM
    tissue = {"brain": brain, "grey": grey}
    for name, (cx, cy, cz), radii, kind in NUCLEI:
        both = _ellipsoid((cx, cy, cz), radii) | _ellipsoid((-cx, cy, cz), radii)
        paint(both & tissue[kind], name)
    deep = fluid & (ndimage.distance_transform_edt(intracranial) > 22) & (np.abs(x) < 34)
    paint(deep & (z > -2) & (z < 36) & (np.abs(x) > 1) & (y > -52) & (y < 40), "lateral_ventricle")
    labels[deep & (np.abs(x) <= 4) & (z > -14) & (z < 12) & (y > -32) & (y < 8)] = THIRD
    labels[fluid & (np.abs(x) < 14) & (z > -48) & (z < -20) & (y > -54) & (y < -36)] = FOURTH
    return labels


def colin(templates: Path) -> tuple[Labels, Mask, Image]:
    """Return Colin27's brain labels, intracranial space and T1, each `[181, 217, 181]`."""
    head = sources.on_grid(templates / "ch2.nii.gz")
    inside = sources.on_grid(templates / "ch2bet.nii.gz") > 0
    inside = np.asarray(ndimage.binary_opening(inside, _ball(2)))
    intracranial = np.asarray(ndimage.binary_dilation(_close(inside, 10), _ball(1)))
    # modes of ch2 inside the brain: fluid ~45, grey ~88, white ~112
    tissue = ndimage.gaussian_filter(head, 0.5)
    core = np.asarray(ndimage.binary_dilation(inside, _ball(1)))
    white = core & (tissue > 101) & (tissue < 135)
    grey = core & (tissue > 66) & ~white
    return _brain(grey, white, intracranial), intracranial, head


def icbm() -> tuple[Labels, Mask]:
    """Return the brain labels and the intracranial space of ICBM152, each `[181, 217, 181]`."""
    folder = sources.nilearn_data()
    t1, grey, white = (
        sources.on_grid(folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")
        for kind in ("t1", "gm", "wm")
    )
    intracranial = _close(t1 > 0, 4)
    is_white = (white > grey) & (white > 110)
    is_grey = (grey >= white) & (grey > 125)
    return _brain(is_grey, is_white, intracranial), intracranial


def s1(folder: Path, colin_space: Mask) -> tuple[Labels, Mask, Image]:
    """Return S1's brain labels, intracranial space and T1, each `[181, 217, 181]`.

    The cortex lies between the white and the pial surface. The surfaces leave out cerebellum and
    brain stem, which are taken from the bright voxels inside Colin's intracranial space.
    """
    head = sources.s1_on_grid(folder / "anatomicals/raw.nii.gz")
    within_white, within_pia = (
        sources.s1_surface(folder / f"surfaces/{kind}_lh.gii")
        | sources.s1_surface(folder / f"surfaces/{kind}_rh.gii")
        for kind in ("wm", "pia")
    )
    # modes of S1: fluid ~25, grey ~75, white ~107
    deep = ndimage.distance_transform_edt(colin_space) > 2
    rest = np.asarray(ndimage.binary_opening(deep & ~within_pia & (head > 52), _ball(2)))
    pieces, _ = ndimage.label(rest | within_pia)
    brain = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    cortex = within_pia & ~within_white
    smooth = ndimage.gaussian_filter(head, 0.7)  # deep nuclei are near white matter's intensity
    white = brain & ~cortex & (smooth > 91)
    grey = cortex | (brain & ~white & (smooth > 52))
    intracranial = np.asarray(ndimage.binary_dilation(_close(brain, 10), _ball(2)))
    return _brain(grey, white, intracranial), intracranial, head
