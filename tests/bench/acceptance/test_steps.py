"""All steps on this machine, without a GPU at small sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.acceptance import __main__ as command
from bench.acceptance import libcuda, report, runner
from bench.acceptance.steps import STEPS


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_case_is_done_or_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "WORK", tmp_path)
    monkeypatch.setattr(report, "PAGE", tmp_path / "gpu.md")
    monkeypatch.setattr(libcuda, "first", lambda: None)
    status = command.main([])
    states = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [state["step"] for state in states] == [step.name for step in STEPS]
    for state in states:
        assert state["status"] == "done", state
        for case in state["cases"].values():
            assert case["rows"] if case["status"] == "done" else case["reason"]
    assert status == 0
    page = (tmp_path / "gpu.md").read_text()
    assert "**This has not been run on a GPU yet.**" in page and str(tmp_path) not in page
