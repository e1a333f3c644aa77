"""Upgrade, rollback, a host cut off and one killed, under load: no request is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from reliability import rehearsal
from tests.docker import tools


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_no_request_is_lost(tmp_path: Path) -> None:
    tools.need("ip")
    haproxy = tools.haproxy()
    report = rehearsal.rehearse(2, 2, str(haproxy), tmp_path)
    assert report["sent"] == report["answered"] >= 20, report
    assert report.get("failed", 0) == 0
    assert report["different"] == []
    assert report["of version 1"] > 5 and report["of version 2"] > 5
    assert report["of version 1"] + report["of version 2"] == report["answered"]
    assert "answered" in rehearsal.table(report)
