"""Locks of files, which the kernel releases when their process ends, for whatever reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from .._errors import InvalidRequest, MaisiError


@contextmanager
def shard_lock(path: Path) -> Iterator[None]:
    """Hold the lock of a shard; raises `InvalidRequest` where another process has it."""
    with path.open("a") as lock:
        try:
            _lock(lock, wait=False)
        except BlockingIOError:
            raise InvalidRequest(
                f"another process makes this shard of {path.parent}; give each its own"
            ) from None
        yield


@contextmanager
def description_lock(path: Path) -> Iterator[None]:
    """Hold the lock of the files that describe a dataset, once it is free."""
    with path.open("a") as lock:
        _lock(lock, wait=True)
        yield


def _lock(file: TextIO, *, wait: bool) -> None:
    """Lock a file; raises `BlockingIOError` where another process has it and `wait` is false."""
    try:
        import fcntl
    except ImportError:
        raise MaisiError(
            "a dataset needs file locks (fcntl), which this system's Python does not have"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        raise MaisiError(f"'{file.name}' cannot be locked: {error.strerror}") from error
