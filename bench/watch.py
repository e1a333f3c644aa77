"""Memory, looked at while something runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOOK = 0.05  # seconds between two looks


def private(pid: int) -> int:
    """Return the bytes of a process's private pages, without files that it has mapped."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return 1024 * int(line.split()[1])
    return 0


@contextmanager
def most(*looks: Callable[[], int]) -> Iterator[list[int]]:
    """Give a list that afterwards holds the most that each of `looks` saw."""
    found, done = [look() for look in looks], threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK):
            found[:] = [max(old, look()) for old, look in zip(found, looks, strict=True)]

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
