"""Compare volumes of `mini` with held-out renders, as docs/how-to/assess.md shows."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from maisi_client import Client, make_dataset, make_plan
from numpy.typing import NDArray

from bench import ROOT
from bench.launcher import Server
from training.data import HELD_OUT, draw, load
from training.heads import Head, heads
from training.synthesis import render

CONTRAST = "mri_t1"
STEPS = 10
_WIDTH, _MARGIN = 1000, 16  # pixels: width of a picture, space above its first element
# The pictures in docs/images/, and the first and the last element of the report in each picture.
_PICTURES = {
    "assess.png": ("header", "main > section:nth-of-type(1)"),
    "assess-realism.png": ("section:has(> h2:text-is('Realism'))",) * 2,
    "assess-privacy.png": ("section:has(> h2:text-is('Privacy'))",) * 2,
}


def sets(folder: Path, cache: Path, number: int, jobs: int) -> None:
    """Write three sets of `number` subjects each below `folder`; skip files that exist.

    `masks/` has the label masks of held-out subjects. `held-out/` has the labels and renders of
    other held-out subjects. `trained-on/` has the labels and renders of the first training
    subjects of `scripts/train-mini`.
    """
    heads(cache)
    tasks = [
        *((folder / "masks", HELD_OUT + n, False) for n in range(number)),
        *((folder / "held-out", HELD_OUT + number + n, True) for n in range(number)),
        *((folder / "trained-on", n, True) for n in range(number)),
    ]
    with get_context("spawn").Pool(jobs) as pool:
        pool.map(partial(_write, cache), tasks, chunksize=1)


def _write(cache: Path, task: tuple[Path, int, bool]) -> None:
    """Write the mask of a subject and, if the task asks for it, the subject's render."""
    folder, seed, rendered = task
    last = (folder / "labels" if rendered else folder) / f"{seed}.nii.gz"
    if last.exists():
        return
    mask, image, spacing = _subject(cache, seed, rendered)
    if image is not None:
        greys = np.rint(1000 * image.astype(np.float32)).astype(np.int16)
        _save(greys, spacing, folder / "images" / last.name)
    _save(mask, spacing, last)


def _subject(
    cache: Path, seed: int, rendered: bool
) -> tuple[NDArray[np.uint8], NDArray[np.floating[Any]] | None, float]:
    """Return the mask, the render if `rendered` is true, and the spacing in mm of a subject.

    They are read from the training's cache if it has the subject. Otherwise they are computed with
    the same random numbers, because T1 is the first contrast that `training.data` renders.
    """
    cached = cache / f"subjects/{seed}.npz"
    if cached.exists():
        mask, images, spacing = load(cached)
        return mask, images[0] if rendered else None, spacing
    rng, head = draw(_heads(cache), seed)
    return head.mask, render(rng, head, CONTRAST) if rendered else None, head.spacing


@lru_cache
def _heads(cache: Path) -> list[Head]:
    return heads(cache)


def _save(values: NDArray[np.generic], spacing: float, path: Path) -> None:
    """Write a volume `[X, Y, Z]` of `spacing` mm; an interrupted run leaves no damaged file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    nib.save(nib.Nifti1Image(values, np.diag([spacing, spacing, spacing, 1.0])), draft)
    draft.replace(path)


def generate(folder: Path, number: int) -> None:
    """Write a volume for each of `number` masks to `folder/synthetic`, with a server of `mini`."""
    rows = make_plan(
        number, modalities={CONTRAST: 1.0}, masks=[folder / "masks"], variant="mini", steps=STEPS
    )
    with (
        Server(ROOT / "model_repository", folder / "server.log", "--models", "mini") as server,
        Client(server.grpc) as client,
    ):
        for outcome in make_dataset(rows, folder / "synthetic", client):
            print(outcome.name, outcome.state, outcome.error, flush=True)


def report(folder: Path) -> None:
    """Run `maisi assess` on the volumes in one process, and print the time in seconds."""
    started = time.monotonic()
    names = "synthetic --real held-out --train-set trained-on --to report --processes 1"
    command = [sys.executable, "-m", "maisi_client", "assess", *names.split()]
    subprocess.run(command, cwd=folder, check=True)
    print(f"maisi assess {names}: {time.monotonic() - started:.0f} s")


def pictures(page: Path, to: Path) -> None:
    """Show a report in Chromium and write pictures of it to the folder `to`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox"],  # root cannot start the sandbox; the page is our own
        )
        tab = browser.new_page(viewport={"width": _WIDTH, "height": 800})
        tab.goto(page.absolute().as_uri())
        for name, ends in _PICTURES.items():
            first, last = (tab.locator(end).first.bounding_box() for end in ends)
            assert first is not None and last is not None, name
            top = max(first["y"] - _MARGIN, 0)
            height = last["y"] + last["height"] - top
            tab.screenshot(
                path=to / name,
                clip={"x": 0, "y": top, "width": _WIDTH, "height": height},
                full_page=True,
            )
        browser.close()


def main(words: Sequence[str] | None = None) -> None:
    """Write the sets and volumes that are missing, the report, and its pictures in docs/images."""
    parser = argparse.ArgumentParser(prog="scripts/write assess", description=__doc__)
    add = parser.add_argument
    add("--to", type=Path, default=ROOT / "build/assess", metavar="DIR", help="for all results")
    add("--cache", type=Path, default=ROOT / "build/mini", help="folder of scripts/train-mini")
    add("--number", type=int, default=60, help="volumes in each set [60]")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="processes that render subjects")
    args = parser.parse_args(words)
    sets(args.to, args.cache, args.number, args.jobs)
    generate(args.to, args.number)
    report(args.to)
    pictures(args.to / "report/report.html", ROOT / "docs/images")


if __name__ == "__main__":
    main()
