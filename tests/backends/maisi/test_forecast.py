"""The estimated time of a request."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.maisi.forecast import Pace
from backends.maisi.request import Plan, complete


def plan(mini: dict[str, Any], side: int, steps: int = 10) -> Plan:
    inputs = {"size": np.array([side] * 3, np.int32), "steps": np.array([steps], np.int32)}
    return complete(mini, inputs)


def test_time_grows_with_voxels_and_steps(mini: dict[str, Any]) -> None:
    pace = Pace()
    assert pace.expect(mini, plan(mini, 64)) is None
    pace.note(mini, plan(mini, 64), {"sampler": 8.0, "decoder": 2.0})
    assert pace.expect(mini, plan(mini, 64)) == pytest.approx(10)
    assert pace.expect(mini, plan(mini, 64, steps=20)) == pytest.approx(18)
    assert pace.expect(mini, plan(mini, 128)) == pytest.approx(80)


def test_one_volume_or_small_ones_give_no_minimum(mini: dict[str, Any]) -> None:
    pace = Pace()
    pace.note(mini, plan(mini, 64), {"sampler": 80.0, "decoder": 20.0})  # with a compilation
    assert pace.minimum(mini, plan(mini, 64)) is None
    pace.note(mini, plan(mini, 64), {"sampler": 8.0, "decoder": 2.0})
    assert pace.minimum(mini, plan(mini, 64)) == pytest.approx(10)
    assert pace.minimum(mini, plan(mini, 64, steps=40)) == pytest.approx(34)
    assert pace.minimum(mini, plan(mini, 64, steps=50)) is None
    assert pace.minimum(mini, plan(mini, 128)) is None
    assert pace.minimum(mini, plan(mini, 32)) == pytest.approx(10 / 8)
