"""Files in /dev/shm: the key of a server on this machine, and the volumes of a request."""

from __future__ import annotations

import math
import mmap
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .._request import size_of

SHM, PREFIX = Path("/dev/shm"), "maisi-client-"  # the same as in server/shared_memory.py
_HEADROOM = 8  # in /dev/shm the server needs about 40 bytes per voxel, a request at most 7


def key(url: str) -> str:
    """Return the key of this user's server at the port of `url`; raises OSError without a key."""
    port = url.rpartition(":")[2]
    keys = [
        (status.st_mtime, path)
        for path in SHM.glob(f"maisi-serve-*-key-{port}")
        if (status := path.lstat()).st_uid == os.getuid() and stat.S_ISREG(status.st_mode)
    ]
    if not keys:
        raise FileNotFoundError(f"{SHM} has no key of a server at port {port}")
    return max(keys)[1].read_text()


def create(name: str, size: int) -> tuple[int, mmap.mmap]:
    """Return the descriptor and the memory of a new locked file of `size` bytes in shared memory.

    Raises OSError if there is too little space; then no file remains.
    """
    import fcntl  # Windows has neither fcntl nor /dev/shm

    if _HEADROOM * size > shutil.disk_usage(SHM).free:
        raise OSError(f"{SHM} has too little space for {size} bytes and the server")
    while True:
        descriptor = os.open(SHM / name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            break
        os.close(descriptor)  # a server removed it before it was locked
    try:
        os.posix_fallocate(descriptor, 0, size)  # raises here; later, an access would be a SIGBUS
        return descriptor, mmap.mmap(descriptor, size)
    except OSError:
        (SHM / name).unlink(missing_ok=True)
        os.close(descriptor)
        raise


def offsets(inputs: Mapping[str, NDArray[Any]]) -> tuple[dict[str, int], int]:
    """Return the offset of each volume in bytes, and the total size.

    The image is the last volume, if its size is known.
    """
    sizes = {name: value.nbytes for name, value in inputs.items() if value.ndim >= 3}
    image = size_of(inputs)
    if image and min(image) > 0 and not inputs.keys() & {"check", "mask_only"}:
        sizes["image"] = 2 * math.prod(image)  # int16
    starts, end = {}, 0
    for name, size in sizes.items():
        starts[name] = -(-end // mmap.PAGESIZE) * mmap.PAGESIZE
        end = starts[name] + size
    return starts, end
