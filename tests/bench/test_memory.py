"""What a server holds in memory."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from bench import ROOT, memory, processes


def test_shared_memory_is_that_of_the_server_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Named:
        def shared_memory(self) -> list[str]:
            return ["maisi-serve-1-own"]

    monkeypatch.setattr(memory, "SHM", tmp_path)
    own, other = tmp_path / "maisi-serve-1-own", tmp_path / "maisi-serve-2-other"
    for path in (own, other):
        path.write_bytes(os.urandom(1 << 20))
    assert memory.shared(Named()) == processes.allocated([own]) > 0


@pytest.mark.slow
def test_a_server_is_measured_idle_and_at_work() -> None:
    idle, busy = memory.measure("mini", ROOT / "model_repository", [48])
    assert 1e8 < idle["private"] < busy["private"] < psutil.virtual_memory().total
    assert idle["shared"] < busy["shared"] < idle["shared"] + 200 * busy["voxels"]
