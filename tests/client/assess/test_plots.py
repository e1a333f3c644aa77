"""Plots of the report, for values at which a scale has no size."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from maisi_client._assess.plots import Interval, intervals


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("value", [0.0, 1e-9, 1.0, 1e9])
def test_equal_values_are_drawn(value: float, log: bool) -> None:
    part = Interval("real", value, value, value)
    picture = ElementTree.fromstring(intervals([("all", [part]), ("one", [part])], log=log))
    texts = [text.text for text in picture.iter() if text.tag.endswith("text")]
    assert {"all", "one"} <= set(texts)
