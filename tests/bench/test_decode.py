"""Decoding in slabs and in windows."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from bench import decode


def test_seams_are_seen_where_they_are() -> None:
    volume = np.random.default_rng(0).normal(size=(40, 16, 16))
    assert decode.seams(volume, [10, 20, 30]) == pytest.approx(1, abs=0.2)
    volume[10:] += 5
    assert decode.seams(volume, [10]) > 3
    assert decode.seams(volume, [20]) < 1


def test_windows_begin_where_monai_lays_them() -> None:
    assert decode.window_starts(32, 48, 0.4) == [0]
    assert decode.window_starts(64, 48, 0.6666) == [0, 16]
    assert decode.window_starts(128, 80, 0.4) == [0, 48]
    assert json.dumps(decode.window_starts(128, 80, 0.4)) == "[0, 48]"
    assert decode.window_starts(128, 48, 0.6666) == [0, 16, 32, 48, 64, 80]


@pytest.mark.slow
def test_slabs_are_the_whole() -> None:
    words = ["--sizes", "64", "--budgets", "0", "0.01", "--repeat", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.decode", *words], capture_output=True, text=True, check=True
    )
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [row["way"] for row in rows] == ["whole", "slabs 0", "slabs 0.01"]
    for row in rows:
        assert row["largest"] < 1 and row["beyond"] == 0 and row["seconds"] > 0
    assert rows[2]["seams"] == pytest.approx(1, abs=1e-3)
    assert "| 64³ | slabs, budget 0.01 GB |" in done.stdout
