"""The command of the fleet: its answers, its arguments, and three real servers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench.fleet import __main__ as fleet
from bench.fleet import three_servers
from bench.fleet.simulation import Result


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = fleet.main(words)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_more_clients_or_a_smaller_p95_need_more_servers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("--kind=a=1:10", "--rate=1800", "--requests=1500")
    _, out, _ = run(capsys, *words, "--p95=60")
    slow = {row["clients"]: row for row in json.loads(out.splitlines()[-1])["fleet"]}
    _, out, _ = run(capsys, *words, "--p95=20")
    fast = {row["clients"]: row for row in json.loads(out.splitlines()[-1])["fleet"]}
    assert 5 <= slow["one"]["servers"] <= slow["many"]["servers"]  # 1800/h of 10 s occupy five
    assert slow["one"]["servers"] <= fast["one"]["servers"]
    assert slow["many"]["servers"] < fast["many"]["servers"]
    assert all(row["p95"] <= 20 for row in fast.values())
    assert "100% of a in 10 s: 360 volumes per hour each" in out


def test_a_p95_below_the_service_time_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = run(capsys, "--kind=a=1:10", "--rate=100", "--p95=5")
    assert status == 2 and error.startswith("scripts/bench fleet: p95: 5 s is too short")


@pytest.mark.parametrize("words", ["a", "a=1", "a=1:x", "a=0:3", "a=1:-3"])
def test_a_kind_that_is_none_is_named(capsys: pytest.CaptureFixture[str], words: str) -> None:
    with pytest.raises(SystemExit):
        fleet.main([f"--kind={words}"])
    assert f"{words!r} is not NAME=SHARE:SECONDS" in capsys.readouterr().err


def test_the_range_of_a_trial_is_that_of_its_simulations() -> None:
    simulated = [Result([float(second)] * 10) for second in range(1, 22)]
    trial = three_servers.Trial([], 1.0, Result([7.0] * 10), simulated)
    assert trial.percentiles(95) == (7.0, 11.0, 2.0, 20.0)


@pytest.mark.slow
def test_three_real_servers_answer_as_simulated() -> None:
    trial = three_servers.run(0.6, 40)
    # Without a queue the two differ by the machine's noise alone, whatever else it does.
    shortest = min(float(np.mean(kind.seconds)) for kind in trial.kinds)
    real, simulated, _, _ = trial.percentiles(50)
    assert len(trial.real.seconds) == 36 and min(trial.real.seconds) >= shortest
    assert real / simulated < 2
