"""File locks. The kernel releases them when the process ends, even if it is killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from .._errors import InvalidRequest, MaisiError

_COUNT = ".shards-of-"  # the number of shards follows


@contextmanager
def shard_lock(folder: Path, index: int, count: int) -> Iterator[None]:
    """Hold the lock of the shard `index` of `count` shards in a folder.

    The processes of all shards also share the lock of a file for their `count`. Only
    locks matter: the files stay in the folder after a run.

    Raises `InvalidRequest` if another process makes this shard, or a shard of another `count`, and
    `MaisiError` if a file cannot be locked.
    """
    with (
        (folder / f".shard-{index}-of-{count}").open("a") as own,
        (folder / f"{_COUNT}{count}").open("a+") as common,  # NFS shares locks of readable files
    ):
        # One process at a time tests the locks, because a test holds the lock for a moment.
        with (folder / ".shards").open("a") as testing:
            _lock(testing)
            try:
                _lock(own, wait=False)
            except BlockingIOError:
                raise InvalidRequest(
                    f"another process makes this shard of {folder}; use a different shard for each"
                    " process"
                ) from None
            _lock(common, shared=True)
            _refuse_other_counts(folder, index, count)
        yield


def _refuse_other_counts(folder: Path, index: int, count: int) -> None:
    for path in folder.glob(f"{_COUNT}*"):
        other = path.name.removeprefix(_COUNT)
        if other == str(count):
            continue
        with path.open("a+") as file:
            try:
                _lock(file, wait=False)
            except BlockingIOError:
                raise InvalidRequest(
                    f"the shard is {index}/{count}, but another process makes a shard of {other} in"
                    f" {folder}; one number of shards at a time is expected"
                ) from None


@contextmanager
def description_lock(path: Path) -> Iterator[None]:
    """Wait for the lock of the files that describe a dataset, then hold it.

    Raises `MaisiError` if the file cannot be locked.
    """
    with path.open("a") as lock:
        _lock(lock)
        yield


def _lock(file: TextIO, *, wait: bool = True, shared: bool = False) -> None:
    """Lock a file; raises `BlockingIOError` if another process has the lock and `wait` is False."""
    try:
        import fcntl
    except ImportError:
        raise MaisiError(
            "a dataset needs file locks (fcntl), which this system's Python does not have"
        ) from None
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        raise MaisiError(f"'{file.name}' cannot be locked: {error.strerror}") from error
