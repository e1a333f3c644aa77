"""Contenders that fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.trial import ContenderFailed, run_trial
from bench.workload import Workload


def test_what_a_contender_fails_with_is_told_in_a_sentence(tmp_path: Path) -> None:
    workload = Workload("mini", 32, 2, "cpu", "", str(tmp_path / "nothing"))
    with pytest.raises(ContenderFailed, match=r"^engines: FileNotFoundError: .*config\.pbtxt"):
        run_trial("engines", workload, tmp_path)
    assert "Traceback" in (tmp_path / "engines.log").read_text()


def test_a_contender_that_dies_is_told_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ContenderFailed, match=r"eager: ended with status 1; .*eager\.log"):
        run_trial("eager", Workload("mini", 32, 2, "cpu", "", ""), tmp_path)
