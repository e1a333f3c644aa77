"""Shortage of memory in another process, by a limit of its data."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNLIMITED = resource.RLIM_INFINITY


def data(pid: int) -> int:
    """Return the bytes that RLIMIT_DATA counts: private memory, neither files nor shared."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmData:")[1].split()[0]) * 1024


@contextmanager
def short_of_memory(pid: int, megabytes: int = 16) -> Iterator[None]:
    """Limit a process to `megabytes` more than it has."""
    limit = data(pid) + megabytes * 10**6
    resource.prlimit(pid, resource.RLIMIT_DATA, (limit, UNLIMITED))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_DATA, (UNLIMITED, UNLIMITED))
