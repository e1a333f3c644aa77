"""Memory of processes: private, resident and shared, now and at the most."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil


def process_tree(pid: int) -> list[psutil.Process]:
    """Return a process and all its descendants; nothing where it has ended."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def private(pid: int) -> int:
    """Return the bytes of a process's private pages, without files that it has mapped."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return 1024 * int(line.split()[1])
    return 0


def resident(processes: Iterable[psutil.Process]) -> int:
    """Return the bytes of resident memory; pages that processes share count once for each."""
    total = 0
    for process in processes:
        with suppress(psutil.Error):  # it has just ended
            total += process.memory_info().rss
    return total


def allocated(paths: Iterable[Path]) -> int:
    """Return the bytes that files take: a file of tmpfs may be longer than what it holds."""
    total = 0
    for path in paths:
        with suppress(OSError):
            total += 512 * path.stat().st_blocks
    return total


@contextmanager
def peaks(*measures: Callable[[], int], seconds: float = 0.05) -> Iterator[list[int]]:
    """Give a list that afterwards has the maximum of each measure, taken every so many seconds."""
    maxima, done = [measure() for measure in measures], threading.Event()

    def watch() -> None:
        while not done.wait(seconds):
            pairs = zip(maxima, measures, strict=True)
            maxima[:] = [max(maximum, measure()) for maximum, measure in pairs]

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield maxima
    finally:
        done.set()
        thread.join()
