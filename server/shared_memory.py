"""Files in /dev/shm: those with the prefix of a server, and those of clients.

Every owner holds a lock. If the lock of a file is free, its server or client has ended.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from server.host import SHM

PREFIX = "maisi-serve-"
_MARKER = re.compile(rf"{PREFIX}\d+-[0-9a-f]{{8}}-lock")
CLIENTS = "maisi-client-"  # the same as in client/src/maisi_client/_transport/dev_shm.py


def claim() -> tuple[str, int]:
    """Reserve a prefix for this server's names in /dev/shm; return (prefix, descriptor).

    The descriptor locks the marker file of the prefix. Processes that inherit it keep the lock. The
    kernel releases the lock when the last of them ends, even if it is killed.
    """
    while True:
        prefix = f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}-"
        descriptor = os.open(SHM / f"{prefix}lock", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return prefix, descriptor
        os.close(descriptor)  # another server removed it before it was locked


def publish_key(prefix: str, port: int, key: str) -> None:
    """Write the key for clients of `port` to shared memory; only the same user can read it."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    with os.fdopen(os.open(SHM / f"{prefix}key-{port}", flags, 0o600), "w") as file:
        file.write(key)


def own_files(prefix: str) -> Iterator[Path]:
    """Yield this user's files under `prefix`; another user can create files of any name."""
    for path in SHM.glob(f"{prefix}*"):
        with suppress(FileNotFoundError):  # it was deleted meanwhile
            if path.lstat().st_uid == os.geteuid():
                yield path


def remove_regions(prefix: str) -> None:
    """Delete the files of tritonserver and its models in /dev/shm under `prefix`."""
    for path in own_files(prefix):
        if not path.name.startswith((f"{prefix}lock", f"{prefix}key-")):
            path.unlink(missing_ok=True)


def remove(prefix: str) -> int:
    """Delete all files under `prefix`, the marker last; return the number of regions."""
    regions = [path for path in own_files(prefix) if path.name != f"{prefix}lock"]
    for path in [*regions, SHM / f"{prefix}lock"]:
        path.unlink(missing_ok=True)
    return len(regions)


def sweep_servers() -> int:
    """Delete the files of servers that have ended; return the number of regions."""
    count = 0
    for lock in own_files(PREFIX):
        if not _MARKER.fullmatch(lock.name):
            continue
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:  # the file was deleted meanwhile
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its server is alive
            continue
        else:
            count += remove(lock.name.removesuffix("lock"))
        finally:
            os.close(descriptor)
    return count


def sweep_clients(
    registered: Iterable[str] = (), unregister: Callable[[str], bool] = lambda region: True
) -> None:
    """Delete the files of clients that ended, and unregister those that are `registered`.

    A client holds the lock of its file while it lives. If `unregister` returns False, a request
    still uses the region, and the file is kept until a later sweep. If a region has no file, its
    client has ended and another server has deleted the file.
    """
    regions = {name for name in registered if name.startswith(CLIENTS)}
    for name in sorted(regions | {path.name for path in SHM.glob(f"{CLIENTS}*")}):
        try:
            descriptor = os.open(SHM / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            unregister(name)
            continue
        except OSError:  # the file belongs to another user
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if name not in regions or unregister(name):
                (SHM / name).unlink(missing_ok=True)
        except OSError:  # its client is alive
            pass
        finally:
            os.close(descriptor)
