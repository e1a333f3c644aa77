"""An answer's way is timed in both ways, on a real server."""

from __future__ import annotations

import json

import pytest
from maisi_client._transport import shared

from bench import transfer


@pytest.mark.slow
def test_both_ways_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert transfer.main(["--sides", "32", "--repeat", "1"]) == 0
    text, line = capsys.readouterr().out.rstrip().rsplit("\n", 1)
    (row,) = json.loads(line)["rows"]
    assert row["gRPC"] > 0 and row["shared memory"] > 0
    assert f"| 32³ | 0.1 | {row['gRPC']:.1f} | {row['shared memory']:.1f} |" in text


def test_the_page_names_the_threshold_of_our_client() -> None:
    assert transfer.CLIENT_THRESHOLD == shared.THRESHOLD
