"""Pictures of slices side by side, as PNG in data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .._colours import rgb
from .alignment import align
from .harmonising import Greys
from .record import Record

Pixels = NDArray[np.uint8]

_TILE = 176  # pixels of the longer side of a slice
_PALETTE = np.array([rgb(label) for label in range(256)], np.float32)
_AXIAL = 2  # the axis that is normal to axial slices


@dataclass(frozen=True)
class Picture:
    """An image for the page: its data URI, width and height in pixels."""

    uri: str
    width: int
    height: int


def planes(record: Record, *, outlined: bool = False) -> Picture:
    """Return the three middle slices of a volume in a row; `outlined` adds the labels' outlines."""
    tiles = []
    for axis in (2, 1, 0):
        tile = _rgb(record.views[axis])
        if outlined and len(record.outlines) == 3:
            tile = _with_outlines(tile, record.outlines[axis])
        tiles.append(_upright(tile))
    return _row(tiles)


def axial(record: Record) -> Picture:
    """Return the middle axial slice of a volume."""
    return _row([_upright(_rgb(record.views[_AXIAL]))])


def pair(one: Greys, other: Greys) -> Picture:
    """Return middle slices of `one`, of `other` aligned to `one`, and of their difference."""
    aligned = align(one, other)
    middle = one.shape[2] // 2
    cuts = [one[..., middle], aligned[..., middle]]
    tiles = [_upright(_rgb(np.rint(255 * np.clip(cut, 0, 1)).astype(np.uint8))) for cut in cuts]
    change = np.clip(cuts[0] - cuts[1], -1, 1)
    red, blue = np.clip(-2 * change, 0, 1), np.clip(2 * change, 0, 1)
    colours = np.stack([1 - blue, 1 - np.maximum(red, blue), 1 - red], -1)
    tiles.append(_upright(np.rint(255 * colours).astype(np.uint8)))
    return _row(tiles)


def _rgb(cut: Pixels) -> Pixels:
    return np.repeat(cut[..., None], 3, -1)


def _upright(tile: Pixels) -> Image.Image:
    """Return a slice `[across, up, 3]` upright, with the patient's right side on the left."""
    turned = np.ascontiguousarray(tile[::-1, ::-1].swapaxes(0, 1))
    picture = Image.fromarray(turned)
    scale = _TILE / max(picture.size)
    size = [max(1, round(side * scale)) for side in picture.size]
    return picture.resize((size[0], size[1]), Image.Resampling.BICUBIC)


def _with_outlines(tile: Pixels, labels: Pixels) -> Pixels:
    """Return a slice with the outer pixels of each label in the label's colour."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        changed = np.diff(labels, axis=axis) != 0
        edge[tuple(slice(None, -1) if a == axis else slice(None) for a in (0, 1))] |= changed
    drawn = tile.copy()
    drawn[edge] = np.rint(0.35 * tile[edge] + 0.65 * _PALETTE[labels[edge]]).astype(np.uint8)
    return drawn


def _row(tiles: Sequence[Image.Image]) -> Picture:
    gap = 3
    width = sum(tile.width for tile in tiles) + gap * (len(tiles) - 1)
    height = max(tile.height for tile in tiles)
    page = Image.new("RGB", (width, height))
    left = 0
    for tile in tiles:
        page.paste(tile, (left, (height - tile.height) // 2))
        left += tile.width + gap
    buffer = io.BytesIO()
    page.save(buffer, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(uri, width, height)
