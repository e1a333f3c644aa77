"""The masks that the mask networks are trained on: one `.npz` each, with a mask alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .data import Arrays, files, write
from .heads import heads
from .synthesis import FLIP, subject

FIRST = 200_000  # the seed of the first mask; those of the subjects with images are below
LITTLE = 0.45  # the variation of three of four masks
HELD_OUT = 12  # the first masks are not trained on


def _mask(cache: Path, seed: int) -> Arrays:
    variation = LITTLE if seed % 4 else 1.0
    return {"mask": subject(np.random.default_rng(seed), heads(cache), variation).mask}


def make(cache: Path, count: int, jobs: int) -> None:
    """Write `count` training and `HELD_OUT` other masks below `cache`; skip those that exist."""
    heads(cache)
    seeds = range(FIRST, FIRST + HELD_OUT + count)
    write(cache / "masks", seeds, partial(_mask, cache), jobs)


def paths(cache: Path, held_out: bool = False) -> list[Path]:
    """Return the files of the training or of the held-out masks, ordered by seed."""
    return [p for p in files(cache / "masks") if (int(p.stem) < FIRST + HELD_OUT) == held_out]


def mirrored(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mirror image of a mask `[X, Y, Z]`; labels of the left and the right side swap."""
    return np.ascontiguousarray(FLIP[mask[::-1]])
