"""The masks that the mask networks are trained on: one `.npz` each, with a mask alone."""

from __future__ import annotations

from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .data import LITTLE
from .heads import heads
from .synthesis import FLIP, subject

FIRST = 200_000  # the seed of the first mask; those of the subjects with images are below
HELD_OUT = 12  # the first masks are not trained on


def _make(task: tuple[Path, Path, int]) -> None:
    cache, folder, seed = task
    path = folder / f"{seed}.npz"
    if path.exists():
        return
    torch.set_num_threads(1)
    variation = LITTLE if seed % 4 else 1.0
    head = subject(np.random.default_rng(seed), heads(cache), variation)
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, mask=head.mask)
    part.rename(path)


def make(cache: Path, count: int, jobs: int) -> None:
    """Write `count` training and `HELD_OUT` other masks below `cache`; skip those that exist.

    Three of four have little variation, see `data.LITTLE`.
    """
    heads(cache)
    folder = cache / "masks"
    folder.mkdir(exist_ok=True)
    seeds = range(FIRST, FIRST + HELD_OUT + count)
    with get_context("spawn").Pool(jobs) as pool:
        pool.map(_make, [(cache, folder, seed) for seed in seeds], chunksize=1)


def paths(cache: Path, held_out: bool = False) -> list[Path]:
    """Return the files of the training or of the held-out masks, ordered by seed."""
    files = sorted(p for p in (cache / "masks").glob("*.npz") if "part" not in p.name)
    return [p for p in files if (int(p.stem) < FIRST + HELD_OUT) == held_out]


def load(path: Path) -> NDArray[np.uint8]:
    """Return the mask `[X, Y, Z]` of a file."""
    with np.load(path) as file:
        return np.asarray(file["mask"], np.uint8)


def mirrored(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mirror image of a mask `[X, Y, Z]`; labels of the left and the right side swap."""
    return np.ascontiguousarray(FLIP[mask[::-1]])
