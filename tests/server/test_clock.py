"""No duration is measured by a clock that somebody may set."""

from __future__ import annotations

import re

from tests.conftest import ROOT

# What time it was is told to people and Prometheus; nothing is decided by it.
TOLD = {"backends/maisi/metrics.py"}


def test_who_asks_what_time_it_is() -> None:
    asked = re.compile(r"time\.time\(|datetime\.|time\.localtime|time\.gmtime")
    folders = ("backends", "server", "client/src")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 80
    found = {str(path.relative_to(ROOT)) for path in files if asked.search(path.read_text())}
    assert found == TOLD
