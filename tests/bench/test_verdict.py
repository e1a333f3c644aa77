"""Numbers of lives to ratios and words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import verdict
from bench.life import Life
from bench.task import Task
from bench.verdict import Difference, Result

TASK = Task("rflow-ct", 64, 4, "cpu", "", "")
SAME = Difference(0, 0.0, 0.0)


def life(start: float, first: float, warm: float) -> Life:
    stages = {"mask_encoder": None, "sampler": warm / 2, "decoder": warm / 2}
    return Life(start, {"total": first}, {**stages, "total": warm}, 3, None, Path(), "")


def results() -> list[Result]:
    slow = [life(10, 8, 6), life(14, 8, 8), life(12, 8, 60)]
    fast = [life(30, 5, 4), life(30, 4, 4), life(30, 6, 4)]
    found = [verdict.result("upstream", slow, 4), verdict.result("service", fast, 4)]
    broken = Result("compile", {}, error="compile: RuntimeError: no compiler")
    return [*(replace(one, difference=SAME) for one in found), broken]


def test_the_first_request_waits_for_upstream_to_start_and_for_the_service_not() -> None:
    upstream, service, _ = results()
    assert upstream.seconds["first_request"] == [18, 22, 20]
    assert service.seconds["first_request"] == [5, 4, 6]
    assert verdict.ratio(upstream, service) == {"total": 2.0, "first_request": 4.0}
    assert service.seconds["step"] == [0.5, 0.5, 0.5] and service.seconds["mask_encoder"] == []


def test_the_table_has_medians_ratios_and_failures() -> None:
    rows = verdict.table(results()).splitlines()[2:]
    assert "| 20 (18 to 22) |" in rows[0] and "| 1.00x | 1.00x |" in rows[0]
    assert "| 2.00x | 4.00x | 0, 0, 0 |" in rows[1]
    assert rows[2].startswith("| torch.compile | failed | - |")
    assert "- torch.compile: compile: RuntimeError: no compiler." in verdict.text(
        TASK, results(), 3
    )


def test_the_json_line_has_every_contender() -> None:
    told = json.loads(verdict.as_json(TASK, results(), 3))
    assert told["base"] == "upstream" and told["repeat"] == 3
    contenders = told["contenders"]
    assert contenders["service"]["faster"] == {"total": 2.0, "first_request": 4.0}
    assert contenders["upstream"]["seconds"]["total"] == {"median": 8, "min": 6, "max": 60}
    assert contenders["compile"] == {"error": "compile: RuntimeError: no compiler"}


def test_a_difference_is_of_whole_grey_levels() -> None:
    base = np.full((2, 2, 1), -32768, np.int16)
    image = base.copy()
    image[0] = [[-32767], [32767]]
    assert verdict.difference(image, base) == Difference(65535, (1 + 65535) / 4, 0.25)
    with pytest.raises(ValueError, match=r"\[2, 2, 1\]"):
        verdict.difference(image, base[:1])
