"""Grey levels from the output of a VAE decoder."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from backends.engines import grey_levels
from backends.engines.guard import NOT_FINITE, Refused

MR = {"min": 0, "max": 1000, "clip_above": False}
CT = {"min": -1000, "max": 1000, "clip_above": True}


def levels(intensity: dict[str, Any], decoded: np.ndarray) -> list[int]:
    image = np.empty(decoded.shape, np.int16)
    grey_levels.convert(intensity, decoded, image)
    values: list[int] = image.tolist()
    return values


def test_grey_levels_are_rounded_and_clipped() -> None:
    decoded = np.array([-0.5, 0, 0.0004, 0.0006, 1, 1.2, 1e6], np.float32)
    assert levels(MR, decoded) == [0, 0, 0, 1, 1000, 1200, 32767]
    assert levels(CT, decoded) == [-1000, -1000, -999, -999, 1000, 1000, 1000]
    half = np.linspace(-0.1, 1.1, 100).astype(np.float16)
    exact = np.rint(np.clip(half.astype(np.float64), 0, 1) * 2000 - 1000)
    assert levels(CT, half) == exact.tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(Refused, match=f"image: {NOT_FINITE}"):
        levels(MR, np.array([0] * 40 + [bad], np.float16))


def test_a_conversion_needs_little_memory() -> None:
    decoded, image = np.zeros((128, 128, 128), np.float32), np.empty((128, 128, 128), np.int16)
    tracemalloc.start()
    grey_levels.convert(MR, decoded, image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * decoded.nbytes
