"""The volume that all contenders make."""

from __future__ import annotations

import numpy as np

from bench.workload import SPACING, Workload, grey_levels

MINI = Workload("mini", 64, 2, "cpu", "", "")


def test_the_mask_has_every_label_and_background_around() -> None:
    labels = MINI.mask()
    assert labels.shape == (64, 64, 64)
    assert set(np.unique(labels)) == {int(label) for label in MINI.load().serving["labels"]}
    assert not labels[0].any() and labels[32, 32, 32]


def test_what_upstream_rounds_to_float16_loses_nothing() -> None:
    noise = MINI.noise()
    assert noise.shape == (1, 4, 16, 16, 16) and 0.9 < noise.std() < 1.1
    assert np.array_equal(noise, noise.astype(np.float16))
    hundredths = np.array(SPACING, np.float16) * np.float16(100)
    assert hundredths.tolist() == [100 * side for side in SPACING]


def test_grey_levels_are_those_of_the_variant() -> None:
    serving = Workload("rflow-ct", 32, 2, "cpu", "", "").load().serving
    image = np.array([0.25, 2.0, -1.0, 0.5]).reshape(4, 1, 1)
    labels = np.array([1, 1, 1, 0]).reshape(4, 1, 1)
    assert grey_levels(serving, image, labels).ravel().tolist() == [-500, 1000, -1000, -1000]
