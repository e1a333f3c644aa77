"""What a step costs through Triton, on a real server at a small size."""

from __future__ import annotations

import json

import pytest

from bench import overhead


@pytest.mark.slow
def test_a_step_through_the_server_and_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert overhead.main(["--sides", "8", "--repeat", "1"]) == 0
    text, line = capsys.readouterr().out.rstrip().rsplit("\n", 1)
    (row,) = json.loads(line)["rows"]
    assert row["side"] == 8
    assert row["ratio"] == pytest.approx(row["served_ms"] / row["in_process_ms"], rel=0.01)
    # The network takes most of a step even here, so the graph without it is really without.
    assert 0 < row["calls_ms"] < row["served_ms"] / 2
    assert f"| 8^3 | {row['served_ms']:.1f}" in text
