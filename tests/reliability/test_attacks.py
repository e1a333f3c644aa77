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
    results = outcome["attacks"]
    assert len({each["sha256"] for each in results.values()}) == 1
    assert all(each["ordinary"] >= 3 and each["survived"] for each in results.values())

    # Each attack has the answer that shows that it works.
    assert results["gzip at HTTP"]["answers"] == {"HTTP 500": 1}
    assert results["gzip at gRPC"]["answers"] == {"status 3": 1}
    assert results["endless body at HTTP"]["answers"] == {"kept waiting": 1}
    assert "kept waiting" not in results["pings"]["answers"]
    assert results["silent at status"]["answers"] == {"newcomer: HTTP 200": 1, "stayed": 50}
    assert sum(results["leave"]["answers"].values()) == 1  # it ended, done for nobody or not
