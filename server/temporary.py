"""The server's temporary folder, whose path Triton's shell can read."""

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

# The possible parents of the folder besides TMPDIR.
OTHERS = (Path("/tmp"), Path("/var/tmp"), SHM)
# Triton's Python backend puts paths into a command of bash without quotes.
_PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")
_NAME = re.compile(r"maisi-serve-[0-9]+-[0-9a-f]{8}")  # the prefix of `shared_memory.claim`


def candidates() -> list[Path]:
    """Return the folders for temporary files, the preferred one first."""
    with suppress(FileNotFoundError):  # no folder that Python tries is writable
        return list(dict.fromkeys([Path(tempfile.gettempdir()), *OTHERS]))
    return list(OTHERS)


def unfit(folder: Path) -> str | None:
    """Return the reason why Triton's files cannot be in `folder`; None if they can."""
    if not _PLAIN.fullmatch(str(folder)):
        return "its path has characters other than A-Z, a-z, 0-9 and _ . / + -"
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
    """Return the first suitable folder, and why `folders[0]` is not suitable (None if it is).

    Raises ValueError if no folder is suitable.
    """
    problems = {folder: unfit(folder) for folder in folders}
    for folder, problem in problems.items():
        if problem is None:
            return folder, problems[folders[0]]
    reasons = "; ".join(f"{str(folder)!r}: {problem}" for folder, problem in problems.items())
    raise ValueError(
        f"There is no folder for temporary files ({reasons}): set TMPDIR to one that can be written"
        " to, is not mounted noexec, and has only A-Z, a-z, 0-9 and _ . / + - in its path."
    )


@contextmanager
def folder(name: str) -> Iterator[tuple[Path, int]]:
    """Make a temporary folder `name`; yield it and the descriptor of its lock.

    The folder is removed at the end of the context. Processes that inherit the descriptor keep the
    lock. The lock shows other servers, and systemd-tmpfiles, which removes old files, that the
    folder is in use. Folders of servers that ended without cleaning up are removed. Raises
    ValueError if no folder can be made.
    """
    folders = candidates()
    parent, problem = choose_folder(folders)
    if problem:
        log(f"temporary files are in {parent}, not in {str(folders[0])!r}: {problem}")
    if count := sweep(folders):
        log(f"removed {count} temporary folders of dead servers")
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
        with suppress(FileNotFoundError):  # another server removed it before it was locked
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return path, descriptor
            os.close(descriptor)


def sweep(folders: Sequence[Path]) -> int:
    """Remove the temporary folders of this user's dead servers; return their number."""
    count = 0
    for path in (path for parent in folders for path in parent.glob("maisi-serve-*")):
        if not _NAME.fullmatch(path.name):
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # the folder belongs to another user, or was removed meanwhile
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
