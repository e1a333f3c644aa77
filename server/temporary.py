"""The server's temporary folder, at a path that Triton's shell can read."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from server.host import SHM
from server.log import log

# Its possible parents besides the environment's TMPDIR.
OTHERS = (Path("/tmp"), Path("/var/tmp"), SHM)
# Triton's Python backend puts paths into a command of bash without quotes.
_PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")
_NAME = re.compile(r"maisi-serve-[0-9]+-[0-9a-f]{8}")  # as `shared_memory.claim` has it


def candidates() -> list[Path]:
    """List the folders for temporary files, the preferred one first."""
    with suppress(FileNotFoundError):  # none of those that Python knows can be written to
        return list(dict.fromkeys([Path(tempfile.gettempdir()), *OTHERS]))
    return list(OTHERS)


def unfit(folder: Path) -> str | None:
    """Return why Triton's files cannot be in `folder`; None: they can."""
    if not _PLAIN.fullmatch(str(folder)):
        return "its path has other characters than A-Z, a-z, 0-9 and _ . / + -"
    try:
        flags = os.statvfs(folder).f_flag
    except OSError as error:
        return (error.strerror or "it cannot be read").lower()
    if flags & os.ST_NOEXEC:
        return "it is mounted noexec"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "it cannot be written to"
    return None


def choose_folder(folders: Sequence[Path]) -> tuple[Path, str | None]:
    """Return the first folder that is fit, and why the very first is unfit, None where it is fit.

    Raises ValueError with one sentence where none is fit.
    """
    problems = {folder: unfit(folder) for folder in folders}
    for folder, problem in problems.items():
        if problem is None:
            return folder, problems[folders[0]]
    reasons = "; ".join(f"{str(folder)!r}: {problem}" for folder, problem in problems.items())
    raise ValueError(
        f"There is no folder for temporary files ({reasons}): set TMPDIR to one that can be written"
        " to, is not mounted noexec, and has A-Z, a-z, 0-9 and _ . / + - alone in its path."
    )


@contextmanager
def folder(name: str) -> Iterator[tuple[Path, int]]:
    """Make a folder `name` that is removed with the block; yield it and the descriptor of its lock.

    Whoever inherits the descriptor keeps the lock. It shows that the folder is in use, to the next
    server and to systemd-tmpfiles, which removes old files. Folders of servers that ended without
    cleaning up are removed. Raises ValueError with one sentence where no folder can be made.
    """
    folders = candidates()
    parent, problem = choose_folder(folders)
    if problem:
        log(f"temporary files are in {parent}, not in {str(folders[0])!r}: {problem}")
    if count := sweep(folders):
        log(f"removed {count} temporary folders that dead servers had left")
    try:
        path, descriptor = _locked(parent / name)
    except OSError as error:
        raise ValueError(
            f"No temporary folder can be made in {parent}: {error.strerror}."
        ) from None
    try:
        yield path, descriptor
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _locked(path: Path) -> tuple[Path, int]:
    while True:
        path.mkdir(mode=0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)  # another server removed it before it was locked


def sweep(folders: Sequence[Path]) -> int:
    """Remove what this user's dead servers left in `folders`; return the number of folders."""
    count = 0
    for path in (path for parent in folders for path in parent.glob("maisi-serve-*")):
        if not _NAME.fullmatch(path.name):
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # another user's, or removed meanwhile
            continue
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
                count += not path.exists()
        except OSError:  # its server is alive
            pass
        finally:
            os.close(descriptor)
    return count
