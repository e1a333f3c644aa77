"""Small sets of heads: real and training ones, an untouched half, and damaged ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from maisi_client._assess.sides import Side

from tests.client.assess import phantoms
from tests.client.assess.sets import described

NUMBER = 12  # volumes of a set
REAL, TRAIN, SYNTHETIC = (range(first, first + NUMBER) for first in (100, 200, 300))


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write datasets of the plain layout; return them by what was done to them."""
    base = tmp_path_factory.mktemp("assess")
    made = {
        "real": phantoms.dataset(base / "real", REAL),
        "train": phantoms.dataset(base / "train", TRAIN, labelled=False),
        "untouched": phantoms.dataset(base / "untouched", SYNTHETIC),
        "blurred": phantoms.dataset(base / "blurred", SYNTHETIC, phantoms.blurred, labelled=False),
        "noisy": phantoms.dataset(base / "noisy", SYNTHETIC, phantoms.noisy, labelled=False),
        "shuffled": phantoms.dataset(base / "shuffled", SYNTHETIC, shuffled=True),
    }
    for name in ("swapped", "collapsed", "copied"):
        made[name] = base / name
    one = phantoms.subject(SYNTHETIC[0])
    for number, seed in enumerate(SYNTHETIC):
        rng = np.random.default_rng(seed)
        file = f"case_{number:04}.nii.gz"
        image, labels = phantoms.subject(seed)
        pairs = {
            "swapped": (phantoms.paint(labels, 1, rng), labels),
            "collapsed": (one[0] + rng.normal(0, 0.005, phantoms.SHAPE), one[1]),
            "copied": (image, labels),
        }
        if number == 5:
            patient, mask = phantoms.subject(TRAIN[3])
            pairs["copied"] = (phantoms.copied(patient, rng), mask)
        for name, (greys, mask) in pairs.items():
            phantoms.save(np.asarray(greys, np.float32), made[name] / "images" / file)
            if name == "copied":
                phantoms.save_labels(mask, made[name] / "labels" / file)
    return made


@pytest.fixture(scope="session")
def report_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a report, whose records all tests share."""
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="session")
def sets(folders: dict[str, Path], report_folder: Path) -> dict[str, Side]:
    """Describe the same datasets."""
    return described(folders, report_folder / ".volumes", "real")
