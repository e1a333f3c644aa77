"""The short form of every attack: ordinary requests are answered as ever, and no process ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from reliability import attacks
from tests.conftest import ROOT


@pytest.mark.slow
def test_ordinary_requests_are_answered_during_every_attack(tmp_path: Path) -> None:
    log = tmp_path / "log"
    outcome = attacks.attack(ROOT / "model_repository", [*attacks.ATTACKS], True, log)
    assert outcome["found"] == [], outcome
    assert "died" not in log.read_text() and "starting tritonserver again" not in log.read_text()
    seen = outcome["attacks"]
    assert len({each["sha256"] for each in seen.values()}) == 1
    assert all(each["ordinary"] >= 3 and each["survived"] for each in seen.values())

    # That the attacks are what they say: what each was answered.
    assert seen["gzip at HTTP"]["answers"] == {"HTTP 500": 1}
    assert seen["gzip at gRPC"]["answers"] == {"status 3": 1}
    assert seen["endless body at HTTP"]["answers"] == {"kept waiting": 1}
    assert "kept waiting" not in seen["pings"]["answers"]
    assert seen["silent at status"]["answers"] == {"newcomer: HTTP 200": 1, "stayed": 50}
    assert sum(seen["leave"]["answers"].values()) == 1  # it ended, done for nobody or not
    assert seen["flood by HTTP"]["answers"]["HTTP 503"] >= 1
