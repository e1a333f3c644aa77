"""A picture of a mask and volumes made from it, in three planes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from ._atomic import atomic
from ._colours import rgb
from ._errors import InvalidRequest, MaisiError
from ._grid import RasImage, Spacing, same_grid
from ._mask import load_greys, load_mask
from ._outputs import check_outputs
from ._slices_png import window
from ._volume import Volume

if TYPE_CHECKING:
    from PIL import Image

Voxels: TypeAlias = NDArray[Any]
PictureOrVolume: TypeAlias = str | os.PathLike[str] | SpatialImage | Volume

_PLANES = (("axial", 0, 1), ("coronal", 0, 2), ("sagittal", 1, 2))  # name, axis across, axis up
_GAP, _TITLE, _FOOT, _SIDE = 8, 40, 32, 22  # pixels
_PAGE, _TILE, _INK, _FAINT = "#0d1016", "#000000", "#e8eaed", "#7d8590"
_FOOTNOTE = "synthetic  ·  radiological view: R is the patient's right, A is anterior"
# Ids of MAISI's label dictionary. Planes through a tumour are preferred to planes through white
# matter hyperintensities.
_BRAIN = (22, 131, 150, 176, *range(213, 241))
_LESIONS = ((23, 24, 26, 27, 128, 176), (150,))


def preview(
    mask: PictureOrVolume | None,
    volumes: Sequence[tuple[str, PictureOrVolume]],
    path: str | os.PathLike[str],
    *,
    tile: int = 320,
) -> None:
    """Draw a mask in colours and volumes in grey, a column each, and write the PNG file `path`.

    The rows are axial, coronal and sagittal planes, cropped to the labels, at one scale in mm; the
    widest is `tile` pixels. They are the planes with most voxels of a tumour or another lesion if
    the mask has one, else those through the middle of the brain, or of all labels.
    `volumes` are pairs of title and picture, all on the mask's grid.

    Raises `InvalidRequest` if the grids differ, there is no mask and no volume, or the picture
    would replace one of them; `MaisiError` without Pillow.
    """
    require_pillow()
    pictures = [("the mask", mask), *((f"'{title}'", volume) for title, volume in volumes)]
    files = [(name, _file(picture)) for name, picture in pictures]
    check_outputs(files, [("the picture", path)])
    greys = [(title, _load_volume(volume)) for title, volume in volumes]
    labels = None
    if mask is not None:
        labels = load_mask(mask.image if isinstance(mask, Volume) else mask)
    elif not greys:
        raise InvalidRequest("there is nothing to draw; pass a mask or a volume")
    first = labels or greys[0][1]
    for title, volume in greys:
        if not same_grid(first, volume):
            other = "the mask" if labels else "the first volume"
            raise InvalidRequest(f"'{title}' is on another grid than {other}")
    voxels = first.values
    visible = voxels > (0 if labels else voxels.mean())
    focus = visible & np.isin(voxels, _BRAIN) if labels else visible
    focus = focus if focus.any() else visible
    columns: list[tuple[str, Voxels, Callable[[Voxels, tuple[int, int]], Image.Image]]]
    columns = [("mask", labels.values, _in_colours)] if labels else []
    columns += [
        (title, volume.values, partial(_in_greys, window=window(volume.values, focus)))
        for title, volume in greys
    ]
    spacing = first.spacing
    box = _box(visible, spacing)
    planes = (_planes_of_lesion(voxels) if labels else None) or _centre(focus)
    extents = [(edge.stop - edge.start) * mm for edge, mm in zip(box, spacing, strict=True)]
    rows = []
    for name, across, up in _PLANES:
        through = 3 - across - up
        scale = tile / max(extents)
        size = (max(1, round(extents[across] * scale)), max(1, round(extents[up] * scale)))
        cuts = []
        for _, voxels, paint in columns:
            cut: Voxels = np.take(voxels, planes[through], axis=through)[box[across], box[up]]
            cuts.append(paint(cut.T[::-1, ::-1], size))  # superior or anterior, and right, first
        rows.append((name, cuts))
    with atomic(Path(path)) as draft:
        _page([title for title, _, _ in columns], rows).save(draft, format="PNG", optimize=True)


def require_pillow() -> None:
    """Raise `MaisiError` if Pillow is not installed."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise MaisiError(
            "a preview needs Pillow, which is not installed: pip install 'maisi-client[preview]'"
        ) from None


def _file(picture: PictureOrVolume | None) -> Any:
    """Return the path of a picture that is a file."""
    if isinstance(picture, Volume):
        picture = picture.image
    return picture.get_filename() if isinstance(picture, SpatialImage) else picture


def _load_volume(picture: PictureOrVolume) -> RasImage:
    return load_greys(picture.image if isinstance(picture, Volume) else picture, "volume")


def _box(visible: NDArray[np.bool_], spacing: Spacing) -> list[slice]:
    """Return the slices of the bounding box of visible voxels, with a margin of 4 mm."""
    box = []
    for counts, mm in zip(_counts(visible), spacing, strict=True):
        indices = np.flatnonzero(counts)
        low, high = (int(indices[0]), int(indices[-1]) + 1) if indices.size else (0, counts.size)
        margin = round(4 / mm)
        box.append(slice(max(low - margin, 0), min(high + margin, counts.size)))
    return box


def _counts(voxels: NDArray[np.bool_]) -> list[NDArray[np.int_]]:
    """Return for each axis the number of true voxels in each plane across it."""
    return [voxels.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]


def _planes_of_lesion(labels: Voxels) -> list[int] | None:
    """Return the plane across each axis with most voxels of a lesion; None without a lesion."""
    for ids in _LESIONS:
        lesion = np.isin(labels, ids)
        if lesion.any():
            return [int(counts.argmax()) for counts in _counts(lesion)]
    return None


def _centre(focus: NDArray[np.bool_]) -> list[int]:
    if not focus.any():
        return [n // 2 for n in focus.shape]
    return [round(float(np.average(np.arange(len(n)), weights=n))) for n in _counts(focus)]


def _in_greys(cut: Voxels, size: tuple[int, int], window: tuple[float, float]) -> Image.Image:
    from PIL import Image

    low, high = window
    smooth = Image.fromarray(cut.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    shade = np.clip((np.asarray(smooth) - low) / (high - low), 0, 1) ** 0.9
    return Image.fromarray(np.rint(255 * shade).astype(np.uint8)).convert("RGB")


def _in_colours(cut: Voxels, size: tuple[int, int]) -> Image.Image:
    """Paint labels with smooth outlines: each is enlarged alone, a pixel gets the strongest."""
    from PIL import Image, ImageFilter

    ids = np.unique(cut)
    fine = (2 * size[0], 2 * size[1])
    soften = ImageFilter.GaussianBlur(0.4 * fine[0] / cut.shape[1])
    shares = [
        np.asarray(
            Image.fromarray((255 * (cut == id_)).astype(np.uint8))
            .resize(fine, Image.Resampling.BICUBIC)
            .filter(soften)
        )
        for id_ in ids
    ]
    palette = np.array([rgb(int(id_)) for id_ in ids], np.uint8)
    return Image.fromarray(palette[np.argmax(shares, axis=0)]).resize(size, Image.Resampling.BOX)


def _page(titles: list[str], rows: list[tuple[str, list[Image.Image]]]) -> Image.Image:
    from PIL import Image, ImageDraw, ImageFont

    width = max(cut.width for _, cuts in rows for cut in cuts)
    large, small = ImageFont.load_default(19), ImageFont.load_default(13)
    across = _SIDE + max(len(titles) * (width + _GAP), round(small.getlength(_FOOTNOTE)) + _GAP)
    down = _TITLE + sum(cuts[0].height + _GAP for _, cuts in rows) + _FOOT
    page = Image.new("RGB", (across, down), _PAGE)
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        middle = _SIDE + column * (width + _GAP) + width / 2
        draw.text((middle, _TITLE / 2), title, _INK, large, anchor="mm")
    top = _TITLE
    for name, cuts in rows:
        bottom = top + cuts[0].height
        for column, cut in enumerate(cuts):
            left = _SIDE + column * (width + _GAP)
            draw.rectangle((left, top, left + width - 1, bottom - 1), _TILE)
            page.paste(cut, (left + (width - cut.width) // 2, top))
            draw.text((left + 7, top + 7), "A" if name == "sagittal" else "R", _FAINT, small)
        label = Image.new("RGB", (cuts[0].height, _SIDE), _PAGE)
        centre = (label.width / 2, _SIDE / 2)
        ImageDraw.Draw(label).text(centre, name, _FAINT, small, anchor="mm")
        page.paste(label.rotate(90, expand=True), (0, top))
        top = bottom + _GAP
    draw.text((_SIDE, down - _FOOT / 2 - 2), _FOOTNOTE, _FAINT, small, anchor="lm")
    return page
