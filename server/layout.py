"""Lays out what tritonserver wants on disk: a backend directory, and names in shared memory."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import sys
from pathlib import Path

from server.host import SHM

PREFIX = "maisi-serve-"


def lay_backends(triton: Path, ours: Path, target: Path) -> None:
    """Fill the new folder `target` with Triton's Python backend and the packages in `ours`.

    Triton refuses a shared library that a link leads out of the backend directory, so that one
    and its utilities are copied; the rest is linked.
    """
    python = target / "python"
    python.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy(triton / "backends" / "python" / name, python)
    stub = "triton_python_backend_stub"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    (python / stub).symlink_to(triton / "python_backend_stubs" / version / stub)
    for module in sorted(ours.glob("*/__init__.py")):
        (target / module.parent.name).symlink_to(module.parent.resolve())


def claim_shared_memory() -> tuple[str, int]:
    """Reserve a prefix for this server's names in /dev/shm.

    Returns (prefix, descriptor). The descriptor locks the prefix's marker file; whoever inherits
    it keeps the lock, which the kernel lifts when the last of them is gone, however it went.
    """
    prefix = f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}-"
    descriptor = os.open(SHM / f"{prefix}lock", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return prefix, descriptor


def remove_shared_memory(prefix: str) -> int:
    """Delete what `prefix` owns in /dev/shm, the marker last; returns how many regions it was."""
    regions = [path for path in SHM.glob(f"{prefix}*") if path.name != f"{prefix}lock"]
    for path in [*regions, SHM / f"{prefix}lock"]:
        path.unlink(missing_ok=True)
    return len(regions)


def sweep_shared_memory() -> int:
    """Delete what servers that ended without cleaning up left in /dev/shm; returns how many."""
    count = 0
    for lock in SHM.glob(f"{PREFIX}*-lock"):
        try:
            descriptor = os.open(lock, os.O_RDWR)
        except OSError:  # another user's, or just gone
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its server is alive
            continue
        else:
            count += remove_shared_memory(lock.name.removesuffix("lock"))
        finally:
            os.close(descriptor)
    return count


def model_names(repository: Path, variants: list[str]) -> list[str]:
    """List the models to load: all (`*`), or those named `V` or `V.something` for each variant V.

    Raises ValueError with one sentence when there is no such repository or variant.
    """
    if not repository.is_dir():
        raise ValueError(f"There is no model repository {repository}: give --repository a folder.")
    here = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    if not here:
        raise ValueError(f"The model repository {repository} holds no */config.pbtxt.")
    if not variants:
        return ["*"]
    for variant in variants:
        if variant not in here:
            doors = sorted({name.split(".")[0] for name in here})
            raise ValueError(
                f"The model repository has no model {variant!r}; it has {json.dumps(doors)}."
            )
    return [name for name in here if any(f"{name}.".startswith(f"{v}.") for v in variants)]
