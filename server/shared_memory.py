"""Names in /dev/shm: a prefix that each server owns, and the files of clients.

Every owner holds a lock. Files whose lock is free belong to a server or client that has ended.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterable

from server.host import SHM

PREFIX = "maisi-serve-"
CLIENTS = "maisi-client-"  # as client/src/maisi_client/_transport/dev_shm.py has it


def claim() -> tuple[str, int]:
    """Reserve a prefix for this server's names in /dev/shm.

    Returns (prefix, descriptor). The descriptor locks the prefix's marker file; whoever inherits
    it keeps the lock, which the kernel releases when the last of them ends, for whatever reason.
    """
    prefix = f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}-"
    descriptor = os.open(SHM / f"{prefix}lock", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return prefix, descriptor


def publish_key(prefix: str, port: int, key: str) -> None:
    """Write the key to shared memory where only clients of `port` of our own user can read it."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    with os.fdopen(os.open(SHM / f"{prefix}key-{port}", flags, 0o600), "w") as file:
        file.write(key)


def remove_regions(prefix: str) -> None:
    """Delete what tritonserver and its models have in /dev/shm under `prefix`."""
    for path in SHM.glob(f"{prefix}*"):
        if not path.name.startswith((f"{prefix}lock", f"{prefix}key-")):
            path.unlink(missing_ok=True)


def remove(prefix: str) -> int:
    """Delete what `prefix` owns in /dev/shm, the marker last; return the number of regions."""
    regions = [path for path in SHM.glob(f"{prefix}*") if path.name != f"{prefix}lock"]
    for path in [*regions, SHM / f"{prefix}lock"]:
        path.unlink(missing_ok=True)
    return len(regions)


def sweep_servers() -> int:
    """Delete what servers that ended without cleaning up left; return the number of regions."""
    count = 0
    for lock in SHM.glob(f"{PREFIX}*-lock"):
        try:
            descriptor = os.open(lock, os.O_RDWR)
        except OSError:  # another user's, or deleted meanwhile
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

    A client holds the lock of its file while it lives. `unregister` returns False for a region that
    a request still uses; its file stays until a later sweep. A region without a file belongs to a
    client that ended and whose file another server deleted.
    """
    regions = {name for name in registered if name.startswith(CLIENTS)}
    for name in sorted(regions | {path.name for path in SHM.glob(f"{CLIENTS}*")}):
        try:
            descriptor = os.open(SHM / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            unregister(name)
            continue
        except OSError:  # another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if name not in regions or unregister(name):
                (SHM / name).unlink(missing_ok=True)
        except OSError:  # its client is alive
            pass
        finally:
            os.close(descriptor)
