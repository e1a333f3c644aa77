"""File locks. The kernel releases them when the process ends, even if it is killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from .._errors import InvalidRequest, MaisiError


@contextmanager
def shard_lock(path: Path) -> Iterator[None]:
    """Hold the lock of a shard.

    Raises `InvalidRequest` if another process has it, or `MaisiError` if the file cannot be locked.
    """
    with path.open("a") as lock:
        try:
            _lock(lock, wait=False)
        except BlockingIOError:
            raise InvalidRequest(
                f"another process makes this shard of {path.parent}; use a different shard for each"
                " process"
            ) from None
        yield


@contextmanager
def description_lock(path: Path) -> Iterator[None]:
    """Wait for the lock of the files that describe a dataset, then hold it.

    Raises `MaisiError` if the file cannot be locked.
    """
    with path.open("a") as lock:
        _lock(lock, wait=True)
        yield


def _lock(file: TextIO, *, wait: bool) -> None:
    """Lock a file; raises `BlockingIOError` if another process has the lock and `wait` is False."""
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
