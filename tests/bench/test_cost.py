"""Counts of windows, voxels and calls."""

from __future__ import annotations

import pytest

from bench import cost

# From the same table: "not used" is one window.
PATCHES = [1, 4, 9, 1, 4, 36, 16, 8, 12]


def test_windows_are_as_many_as_published() -> None:
    assert [cost.window_count(row) for row in cost.PUBLISHED] == PATCHES


def test_voxels_decoded() -> None:
    ratios = [round(cost.decoded(row), 2) for row in cost.PUBLISHED]
    assert ratios == [1, 2.25, 2.25, 1, 1.56, 3.38, 2.34, 1.95, 2.34]


def test_ours_decodes_in_slabs_of_sixteen_subgraphs() -> None:
    slabs, calls = cost.decoder_calls(cost.PUBLISHED[1], cost.official_decoder())
    assert calls == 16 * slabs
    assert 1 < slabs <= 64
    small = cost.PUBLISHED[0]._replace(size=(32, 32, 32))
    assert cost.decoder_calls(small, cost.official_decoder()) == (pytest.approx(1), 16)
