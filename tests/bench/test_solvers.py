"""Solvers at equal cost: what their steps integrate, and the command on a small cube."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from backends.maisi.schedule import Step, steps
from bench import page, solvers

RFLOW = {"kind": "rflow", "train_timesteps": 1000, "base_numel": 32768}
NUMEL = 24 * 28 * 24


def end(calls: list[Step], velocity: Any) -> float:
    """Carry 0 along `velocity`(time 1..0) as the flow graph does."""
    x = z = 0.0
    for call in calls:
        v = velocity(call.timestep / 1000)
        x, z = call.a * x + call.b * v + call.c * z, v
    return x


@pytest.mark.parametrize("name", solvers.SOLVERS)
@pytest.mark.parametrize("calls", solvers.CALLS)
def test_every_row_of_the_table_has_its_calls_and_goes_all_the_way(name: str, calls: int) -> None:
    solution = solvers.SOLVERS[name](RFLOW, NUMEL, calls)
    assert len(solution) == (calls - 1 + calls % 2 if name == "heun" else calls)
    assert [call.timestep for call in solution] == sorted(
        (c.timestep for c in solution), reverse=True
    )
    slack = 0.001 * calls if name == "euler" else 1e-9  # MONAI's rounding
    assert end(solution, lambda time: 3.0) == pytest.approx(3, abs=3 * slack)


def test_cached_velocities_are_euler_with_longer_steps_or_a_line_through_two() -> None:
    indices = solvers.calling(12)
    assert indices == [0, 1, 2, 3, 5, 7, 9, 10, 11]
    times = solvers.exact_times(RFLOW, NUMEL, 12)
    reused = solvers.cached(RFLOW, NUMEL, len(indices), extrapolated=False)
    assert [call.timestep for call in reused] == pytest.approx([1000 * times[i] for i in indices])
    assert [call.b for call in reused][3:6] == pytest.approx(
        [times[3] - times[5], times[5] - times[7], times[7] - times[9]]
    )
    assert all(call.c == 0 for call in reused)

    def line(time: float) -> float:
        return 1 - 4 * time

    # What Euler makes of the fine steps, velocities on a line: extrapolation hits each exactly.
    fine = sum(line(a) * (a - b) for a, b in pairwise(times))
    extrapolated = solvers.cached(RFLOW, NUMEL, len(indices), extrapolated=True)
    assert end(extrapolated, line) == pytest.approx(fine)
    assert end(reused, line) != pytest.approx(fine)


def test_exact_euler_is_euler_but_for_its_rounding() -> None:
    ours = solvers.SOLVERS["euler, exact times"](RFLOW, NUMEL, 10)
    for exact, rounded in zip(ours, steps(RFLOW, NUMEL, 10, "euler"), strict=True):
        assert rounded.timestep == pytest.approx(exact.timestep, abs=0.5)
        assert rounded.b == pytest.approx(exact.b, abs=0.0015)


def test_distance_is_relative() -> None:
    truth = np.array([3.0, 4.0], np.float32)
    assert solvers.apart(truth, truth) == 0
    assert solvers.apart(truth + np.array([0, 1], np.float32), truth) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("cached", "verdict"),
    [(0.5, "farther than the best"), (0.01, "nearer than the best .* with 15, 30 calls")],
)
def test_the_verdict_follows_the_numbers(cached: float, verdict: str) -> None:
    rows = {"euler": [0.4, 0.2], "heun": [0.3, 0.1], "ab2": [0.1, 0.05]}
    rows |= {name: [cached, cached] for name in solvers.CACHED}
    sentences = solvers.judge({"latent": rows}, (15, 30))
    assert "ab2 with 15 calls (0.1000) is nearer to the converged latent" in sentences
    assert "heun with 15 calls (0.3000) is farther from the converged latent" in sentences
    assert re.search(verdict, sentences)


@pytest.mark.slow
def test_the_command_measures_real_volumes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("nothing was to be written")

    monkeypatch.setattr(page, "write", refuse)
    assert solvers.main(["--quick"]) == 0
    text, line = capsys.readouterr().out.rstrip().rsplit("\n", 1)
    results = json.loads(line)
    assert results["calls"] == [5, 8] and results["cases"] == 1
    for measure in ("latent", "grey", "features"):
        assert solvers.MEASURES[measure] in text
        for name in solvers.SOLVERS:
            few, more = results[measure][name]
            assert 0 < more < few, (measure, name)
    assert results["latent"]["ab2"][1] < results["latent"]["euler"][1]
    assert all(0.3 < dice < 1 for row in results["dice"].values() for dice in row)
    with pytest.raises(SystemExit):
        solvers.main(["--quick", "--write"])
