"""No duration is measured by a clock that somebody may set."""

from __future__ import annotations

import re

from tests.conftest import ROOT

# Times for people and Prometheus, by which nothing is decided.
EXCEPTIONS = {"backends/maisi/metrics.py", "client/src/maisi_client/_studio/timestamp.py"}


def test_only_metrics_read_the_clock_of_the_day() -> None:
    pattern = re.compile(r"time\.time\(|datetime\.|time\.localtime|time\.gmtime")
    folders = ("backends", "server", "client/src")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 80
    readers = {str(path.relative_to(ROOT)) for path in files if pattern.search(path.read_text())}
    assert readers == EXCEPTIONS
