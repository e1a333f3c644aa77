"""Memory is seen: private pages and shared ones, and no more than there is."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from bench import memory, watch
from tests.conftest import ROOT


def test_private_pages_are_counted_and_mapped_files_are_not(
    tmp_path: Path, eventually: Callable[..., None]
) -> None:
    with watch.most(lambda: watch.private(os.getpid())) as most:
        before = most[0]
        # Not by malloc, which may have as much from before.
        held = mmap.mmap(-1, 50_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        np.frombuffer(held, np.uint8)[:] = 1
        eventually(lambda: most[0] - before > 45e6)
        held.close()
        mapped = np.memmap(tmp_path / "file", np.uint8, "w+", shape=200_000_000)
        mapped[:] = 1
        time.sleep(0.2)
    assert most[0] - before < 150e6
    assert watch.private(2**22 + 1) == 0  # nobody


@pytest.mark.slow
def test_a_server_is_measured_idle_and_at_work() -> None:
    idle, busy = memory.measure("mini", ROOT / "model_repository", [48])
    assert 1e8 < idle["private"] < busy["private"] < psutil.virtual_memory().total
    assert idle["shared"] < busy["shared"] < idle["shared"] + 200 * busy["voxels"]
