"""The training set on disk: one `.npz` per subject, written by one process per core."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from .heads import Head, heads
from .synthesis import CONTRASTS, Subject, render, subject, without_head

Arrays = dict[str, NDArray[Any]]
HELD_OUT = 100_000  # seeds from this one on are not in the training set
LITTLE = 0.15  # the variation of every second training subject


def variation(seed: int) -> float:
    """Return the variation of a subject, see `synthesis.subject`."""
    return 1.0 if seed >= HELD_OUT or seed % 2 == 0 else LITTLE


def write(folder: Path, seeds: Iterable[int], arrays: Callable[[int], Arrays], jobs: int) -> None:
    """Write the result of `arrays` for each seed to `folder`, by `jobs` processes.

    Files that exist are kept. `arrays` must be picklable.
    """
    folder.mkdir(exist_ok=True)
    with get_context("spawn").Pool(jobs) as pool:
        pool.map(_write, [(folder / f"{seed}.npz", seed, arrays) for seed in seeds], chunksize=1)


def _write(task: tuple[Path, int, Callable[[int], Arrays]]) -> None:
    path, seed, arrays = task
    if path.exists():
        return
    torch.set_num_threads(1)
    part = path.with_suffix(".part.npz")
    np.savez(part, **arrays(seed))
    part.rename(path)


def files(folder: Path) -> list[Path]:
    """Return the complete files that `write` has written to `folder`, ordered by seed."""
    complete = [path for path in folder.glob("*.npz") if "part" not in path.name]
    return sorted(complete, key=lambda path: int(path.stem))


def draw(all_heads: list[Head], seed: int) -> tuple[np.random.Generator, Subject]:
    """Return a subject, and the generator of random numbers for its renders.

    A subject of little variation has no lesions: such subjects alone are learned without a mask.
    """
    rng = np.random.default_rng(seed)
    share = variation(seed)
    return rng, subject(rng, all_heads, share, lesions=share == 1)


def _subject(cache: Path, seed: int) -> Arrays:
    rng, head = draw(heads(cache), seed)
    images = np.stack([render(rng, head, name) for name in CONTRASTS]).astype(np.float16)
    return {"mask": head.mask, "images": images, "spacing": np.array(head.spacing)}


def make(cache: Path, count: int, held_out: int, jobs: int) -> None:
    """Write `count` training and `held_out` test subjects below `cache`; skip those that exist."""
    heads(cache)
    seeds = [*range(HELD_OUT, HELD_OUT + held_out), *range(count)]
    write(cache / "subjects", seeds, partial(_subject, cache), jobs)


def paths(cache: Path, held_out: bool = False) -> list[Path]:
    """Return the files of the training or of the held-out subjects, ordered by seed."""
    return [p for p in files(cache / "subjects") if (int(p.stem) >= HELD_OUT) == held_out]


def load(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float16], float]:
    """Return mask `[X, Y, Z]`, images `[4, X, Y, Z]` in `CONTRASTS`' order, spacing in mm."""
    with np.load(path) as data:
        return data["mask"], data["images"], float(data["spacing"])


def load_mask(path: Path) -> NDArray[np.uint8]:
    """Return the mask `[X, Y, Z]` alone."""
    with np.load(path) as data:
        return np.asarray(data["mask"], np.uint8)


def image(
    mask: NDArray[np.uint8], images: NDArray[np.float16], modality: str
) -> NDArray[np.float32]:
    """Return the image of one modality; skull-stripped ones fade to 0 at the brain's border."""
    contrast = modality.removesuffix("_skull_stripped")
    head: NDArray[np.float32] = images[CONTRASTS.index(contrast)].astype(np.float32)
    if contrast != modality:
        brain = (without_head(mask) != 0).astype(np.float32)
        head *= ndimage.gaussian_filter(brain, 0.7, truncate=3)
    return head
