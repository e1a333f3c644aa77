"""The shortest soak of a real server, and unexpected ends of requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from reliability import soak
from reliability.samples import plot, write_csv
from tests.conftest import ROOT


@pytest.mark.slow
def test_some_seconds_of_everything(tmp_path: Path) -> None:
    report, samples = soak.soak(ROOT / "model_repository", 6, 1, 3, tmp_path / "log")
    assert report["found"] == [] and "failed" not in report
    assert report["answered"] >= 1
    write_csv(samples, tmp_path / "soak.csv")
    plot(samples, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 10_000
    header = (tmp_path / "soak.csv").read_text().splitlines()[0]
    assert "memory: tritonserver" in header and "shared memory: clients" in header


@pytest.mark.parametrize("endpoint", ["client", "wrong arguments"])
def test_a_request_that_ends_otherwise_is_found(endpoint: str) -> None:
    tally = soak.Tally()

    def fail(request: object) -> None:
        raise OSError("gone")

    tally.ask(endpoint, {}, fail)
    assert tally.findings == [f"{endpoint}: OSError: gone"] and tally.counts["failed"] == 1
