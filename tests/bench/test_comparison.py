"""Numbers of trials to ratios and words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import comparison
from bench.comparison import ContenderResult, Difference
from bench.trial import Trial
from bench.workload import Workload

WORKLOAD = Workload("rflow-ct", 64, 4, "cpu", "", "")
SAME = Difference(0, 0.0, 0.0)


def trial(start: float, first: float, warm: float) -> Trial:
    stages = {"mask_encoder": None, "sampler": warm / 2, "decoder": warm / 2}
    return Trial(start, {"total": first}, {**stages, "total": warm}, 3, None, Path(), "")


def results() -> list[ContenderResult]:
    slow = [trial(10, 8, 6), trial(14, 8, 8), trial(12, 8, 60)]
    fast = [trial(30, 5, 4), trial(30, 4, 4), trial(30, 6, 4)]
    compared = [comparison.result("upstream", slow, 4), comparison.result("service", fast, 4)]
    failure = ContenderResult("compile", {}, error="compile: RuntimeError: no compiler")
    return [*(replace(result, difference=SAME) for result in compared), failure]


def test_the_first_request_waits_for_upstream_to_start_and_for_the_service_not() -> None:
    upstream, service, _ = results()
    assert upstream.seconds["first_request"] == [18, 22, 20]
    assert service.seconds["first_request"] == [5, 4, 6]
    assert comparison.ratio(upstream, service) == {"total": 2.0, "first_request": 4.0}
    assert service.seconds["step"] == [0.5, 0.5, 0.5] and service.seconds["mask_encoder"] == []


def test_the_table_has_medians_ratios_and_failures() -> None:
    rows = comparison.table(results()).splitlines()[2:]
    assert "| 20 (18 to 22) |" in rows[0] and "| 1.00x | 1.00x |" in rows[0]
    assert "| 2.00x | 4.00x | 0, 0, 0 |" in rows[1]
    assert rows[2].startswith("| torch.compile | failed | - |")
    assert "- torch.compile: compile: RuntimeError: no compiler." in comparison.text(
        WORKLOAD, results(), 3
    )


def test_the_json_line_has_every_contender() -> None:
    report = comparison.as_json(WORKLOAD, results(), 3)
    assert report["base"] == "upstream" and report["repeat"] == 3
    contenders = report["contenders"]
    assert contenders["service"]["faster"] == {"total": 2.0, "first_request": 4.0}
    assert contenders["upstream"]["seconds"]["total"] == {"median": 8, "min": 6, "max": 60}
    assert contenders["compile"] == {"error": "compile: RuntimeError: no compiler"}


def test_a_difference_is_of_whole_grey_levels() -> None:
    base = np.full((2, 2, 1), -32768, np.int16)
    image = base.copy()
    image[0] = [[-32767], [32767]]
    assert comparison.difference(image, base) == Difference(65535, (1 + 65535) / 4, 0.25)
    with pytest.raises(ValueError, match=r"\[2, 2, 1\]"):
        comparison.difference(image, base[:1])
