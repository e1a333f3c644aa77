"""Volumes that follow their mask are faithful, others are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from backends.maisi import fidelity

Array = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(0)


@pytest.fixture
def mask() -> Array:
    labels = np.zeros((48, 48, 48), np.uint8)
    labels[4:44, 4:44, 4:44] = np.kron(RANDOM.choice([1, 3, 28], (5, 5, 5)), np.ones((8, 8, 8)))
    return labels


def noisy(grey: Any) -> Array:
    image: Array = (grey + RANDOM.normal(0, 30, (48, 48, 48))).astype(np.int16)
    return image


GREY = np.zeros(256)
GREY[[1, 3, 28]] = 60, 110, -800
REFERENCE = {
    "liver": {"labels": [1], "range": [-21.6, 162.0]},
    "lung": {"labels": [28, 29], "range": [-1088.6, -367.0]},
    "brain": {"labels": [22], "range": [-951.0, 369.5]},
}


def test_a_volume_that_follows(mask: Array) -> None:
    result = fidelity.measure({"reference": REFERENCE}, noisy(GREY[mask]), mask)
    assert result["faithful"] is True
    assert result["borders"]["ratio"] > 1.5
    assert set(result["organs"]) == {"liver", "lung"}  # those in the mask
    assert result["organs"]["lung"]["within"]


def test_a_volume_that_does_not(mask: Array) -> None:
    field = ndimage.gaussian_filter(RANDOM.standard_normal(mask.shape), 3)
    unrelated = np.where(field > field.std() / 2, -800, np.where(field > 0, 60, 110))
    result = fidelity.measure({}, noisy(unrelated), mask)
    assert result["faithful"] is False
    assert result["borders"]["ratio"] == pytest.approx(1, abs=0.2)
    assert result["organs"] == {}


def test_medians_are_those_of_numpy(mask: Array) -> None:
    image = noisy(GREY[mask])
    medians = fidelity.organs({"reference": REFERENCE}, image, mask)
    assert medians["liver"]["median"] == np.median(image[mask == 1])
    image[mask == 28] = 0
    medians = fidelity.organs({"reference": REFERENCE}, image, mask)
    assert medians["lung"] == {"median": 0.0, "low": -1088.6, "high": -367.0, "within": False}
    assert fidelity.measure({"reference": REFERENCE}, image, mask)["faithful"] is False


def test_a_median_between_two_levels() -> None:
    image, mask = np.array([[[1, 4]]], np.int16), np.ones((1, 1, 2), np.uint8)
    assert fidelity.organs({"reference": REFERENCE}, image, mask)["liver"]["median"] == 2.5


def test_the_edge_to_the_background_does_not_count(mask: Array) -> None:
    mask[mask > 0] = 1
    image = noisy(GREY[mask])
    image[mask == 0] = -1000
    assert fidelity.borders(image, mask) is None
    assert fidelity.measure({}, image, mask)["faithful"] is None
