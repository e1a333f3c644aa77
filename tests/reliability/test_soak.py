"""That a soak notices what grows, and its shortest form against the real server."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from reliability import soak
from reliability.samples import Sample, growth, plot, write_csv
from tests.conftest import ROOT


def is_flat(memory: Callable[[int], float], descriptors: Callable[[int], float]) -> bool:
    """Return whether a run of 300 samples counts as flat."""
    samples = [
        Sample(
            2.0 * n,
            {("memory", "server"): memory(n), ("descriptors", "server"): descriptors(n)},
        )
        for n in range(300)
    ]
    return all(each.flat for each in growth(samples).values())


def test_what_settles_is_flat_and_what_leaks_is_not() -> None:
    chance = random.Random(1)
    assert is_flat(lambda n: 3e8 + 1e8 * min(n / 90, 1) + 3e7 * chance.random(), lambda n: 20)
    assert not is_flat(lambda n: 3e8 + 2e5 * n, lambda n: 20)
    assert not is_flat(lambda n: 3e8, lambda n: 20 + n // 30)


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
