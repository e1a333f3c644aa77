"""Memory of processes: private pages, children, and no more than there is."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench import processes


def test_private_pages_are_counted_and_mapped_files_are_not(
    tmp_path: Path, eventually: Callable[..., None]
) -> None:
    with processes.peaks(lambda: processes.private(os.getpid())) as peaks:
        before = peaks[0]
        # Not by malloc, which may have as much from before.
        memory = mmap.mmap(-1, 50_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        np.frombuffer(memory, np.uint8)[:] = 1
        eventually(lambda: peaks[0] - before > 45e6)
        memory.close()
        mapped = np.memmap(tmp_path / "file", np.uint8, "w+", shape=200_000_000)
        mapped[:] = 1
        time.sleep(0.2)
    assert peaks[0] - before < 150e6
    assert processes.private(2**22 + 1) == 0  # nobody


def test_the_memory_of_a_child_of_the_process_counts(eventually: Callable[..., None]) -> None:
    inner = "import sys; x = bytearray(200 << 20); sys.stdin.read()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    process = subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE)
    with processes.peaks(lambda: processes.resident(processes.process_tree(process.pid))) as peaks:
        eventually(lambda: peaks[0] > 200 << 20)
        process.communicate()
    assert peaks[0] < 400 << 20
    assert processes.process_tree(process.pid) == []
