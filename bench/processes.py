"""Measure the private, resident and shared memory of processes, and its peak."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil


def process_tree(pid: int) -> list[psutil.Process]:
    """Return a process and all its descendants, or an empty list if it has ended."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def private(pid: int) -> int:
    """Return the private memory of a process in bytes, without mapped files."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return 1024 * int(line.split()[1])
    return 0


def resident(processes: Iterable[psutil.Process]) -> int:
    """Return the resident memory in bytes; a shared page counts once for each process."""
    total = 0
    for process in processes:
        with suppress(psutil.Error):  # the process has just ended
            total += process.memory_info().rss
    return total


def allocated(paths: Iterable[Path]) -> int:
    """Return the allocated bytes of files; a sparse file in tmpfs takes less than its length."""
    total = 0
    for path in paths:
        with suppress(OSError):
            total += 512 * path.stat().st_blocks
    return total


@contextmanager
def peaks(*measures: Callable[[], int], seconds: float = 0.05) -> Iterator[list[int]]:
    """Yield a list that has the maximum of each measure at the end of the block.

    The measures are taken every `seconds`.
    """
    maxima, stopped = [measure() for measure in measures], threading.Event()

    def watch() -> None:
        while not stopped.wait(seconds):
            pairs = zip(maxima, measures, strict=True)
            maxima[:] = [max(maximum, measure()) for maximum, measure in pairs]

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield maxima
    finally:
        stopped.set()
        thread.join()
