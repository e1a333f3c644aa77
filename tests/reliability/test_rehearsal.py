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
    found = rehearsal.rehearse(2, 2, str(haproxy), tmp_path)
    assert found["sent"] == found["answered"] >= 20, found
    assert found.get("failed", 0) == 0
    assert found["different"] == []
    assert found["of version 1"] > 5 and found["of version 2"] > 5
    assert found["of version 1"] + found["of version 2"] == found["answered"]
    assert "answered" in rehearsal.table(found)
