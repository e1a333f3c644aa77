"""Masks, plans and datasets for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from maisi_client import Client, Row, make_dataset

BRAIN, WHITE_MATTER = 22, 227


def masks(folder: Path, count: int) -> list[Path]:
    """Write masks of one grid that differ by where white matter lies."""
    paths = []
    for number in range(count):
        labels = np.zeros((32, 32, 32), np.uint8)
        labels[4:28, 4:28, 4:28] = BRAIN
        labels[6 + number : 14 + number, 10:20, 10:20] = WHITE_MATTER
        paths.append(folder / f"mask-{number}.nii.gz")
        nib.save(nib.Nifti1Image(labels, np.diag([2.0, 2, 2, 1])), paths[-1])
    return paths


def plan(folder: Path, rows: int, anatomies: int, **arguments: Any) -> list[Row]:
    """Return rows of one step that take masks in turn; row N has the seed N."""
    paths = masks(folder, anatomies)
    return [
        Row(f"case-{n:02}", {"mask": paths[n % anatomies], "seed": n, "steps": 1, **arguments})
        for n in range(rows)
    ]


def make(client: Client, rows: list[Row], to: Path, **options: Any) -> list[str]:
    """Make a dataset; return the states of its rows, in their order."""
    states = {one.name: one.state for one in make_dataset(rows, to, client, **options)}
    return [states[row.name] for row in rows if row.name in states]
