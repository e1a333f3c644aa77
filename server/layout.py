"""Lays out what tritonserver wants on disk: a backend directory, and names in shared memory."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2 as pb

from server import gpus
from server.host import SHM, libpython_dir

PREFIX = "maisi-serve-"
CLIENTS = "maisi-client-"  # as client/src/maisi_client/_transport/dev_shm.py has it
# glibc's malloc for tritonserver, whose memory crept up under volumes of many sizes, from three
# hundred threads: one arena, and large blocks go back at once (docs/reliability.md, Soak).
MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
# The networks on a CPU are in the stubs' processes, which would be slower with that.
_STUB = """#!/bin/sh
unset {names}
exec {stub} "$@"
"""


@dataclass(frozen=True)
class Limits:
    """What this server takes where that is less than the models could; None: as they say.

    `voxels` of a volume, requests `waiting`, `seconds` of a request, and in 10^9 bytes `memory_gb`
    and `spill_gb` that a request may take in the networks of any size, in memory and in files.
    """

    voxels: int | None = None
    waiting: int | None = None
    seconds: int | None = None
    memory_gb: float | None = None
    spill_gb: float | None = None


UNLIMITED = Limits()


@dataclass(frozen=True)
class Laid:
    """Folders of tritonserver: of backends, models, libpython and the program python3."""

    backends: Path
    models: Path
    libraries: Path
    programs: Path


def lay(
    triton: Path,
    ours: Path | None,
    repository: Path,
    limits: Limits,
    numbers: tuple[int, ...] | None,
    target: Path,
) -> Laid:
    """Fill the new folder `target`, whose path is plain, with what tritonserver needs.

    `ours`: the packages of our backends; None where `triton` has them among its own. `numbers` of
    the GPUs for networks; None where Triton chooses. All paths of others are behind links: Triton's
    shell does not quote what it gets, its models' interpreters know ASCII alone, and the loader
    divides LD_LIBRARY_PATH at semicolons. Raises ValueError for a network that needs a GPU where
    `numbers` has none.
    """
    laid = Laid(*(target / name for name in ("backends", "models", "lib", "python/bin")))
    if ours is None:
        laid.backends.symlink_to((triton / "backends").absolute())
    else:
        lay_backends(triton, ours, laid.backends)
    if limits == UNLIMITED and numbers is None:
        laid.models.symlink_to(repository.absolute())
    else:
        lay_models(repository, limits, numbers, laid.models)
    laid.libraries.symlink_to(libpython_dir())
    if all(map(str.isascii, [sys.prefix, sys.base_prefix, *sys.path])):
        return replace(laid, programs=Path(sys.executable).parent)
    lay_python(laid.programs)
    return laid


def lay_python(programs: Path) -> None:
    """Make a virtual environment of links to this interpreter and its packages around `programs`.

    It has no *.pth: one whose content is not ASCII ends the models' interpreters.
    """
    programs.mkdir(parents=True)
    (programs / "python3").symlink_to(sys.executable)
    base = programs.parent / "base"
    base.symlink_to(sys.base_prefix)
    (programs.parent / "pyvenv.cfg").write_text(f"home = {base / 'bin'}\n")
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = programs.parent / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    for folder in map(Path, sys.path):
        if folder.name in ("site-packages", "dist-packages") and folder.is_dir():
            for path in folder.iterdir():
                link = packages / path.name
                if path.suffix != ".pth" and not link.is_symlink():  # the first counts
                    link.symlink_to(path)


def lay_backends(triton: Path, ours: Path, target: Path) -> None:
    """Fill the new folder `target` with Triton's Python backend and the packages in `ours`.

    Triton refuses a shared library that a link leads out of the backend directory, so that one
    and its utilities are copied; the rest is linked. The stub gets a script before it, which takes
    `MALLOC` away.
    """
    python = target / "python"
    python.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy(triton / "backends" / "python" / name, python)
    stub = "triton_python_backend_stub"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    (python / version).symlink_to((triton / "python_backend_stubs" / version).absolute())
    (python / stub).write_text(_STUB.format(names=" ".join(MALLOC), stub=python / version / stub))
    (python / stub).chmod(0o755)
    for module in sorted(ours.glob("*/__init__.py")):
        (target / module.parent.name).symlink_to(module.parent.resolve())


def lay_models(
    repository: Path, limits: Limits, numbers: tuple[int, ...] | None, target: Path
) -> None:
    """Fill the new folder `target` with the models of `repository` under tighter limits.

    What a configuration publishes says so, too. Networks are placed on the GPUs of these `numbers`.
    Files of the models are linked.
    """
    for source in sorted(repository.glob("*/config.pbtxt")):
        folder = target / source.parent.name
        folder.mkdir(parents=True)
        if numbers == () and any(source.parent.glob("*/*.plan")):
            raise ValueError(f"--gpus: none, but {folder.name} has plans, which need a GPU.")
        for path in source.parent.iterdir():
            if path.is_dir() and path.name != "configs":
                (folder / path.name).symlink_to(path.resolve())
        for text in (source, *source.parent.glob("configs/*.pbtxt")):
            place = folder / text.relative_to(source.parent)
            place.parent.mkdir(exist_ok=True)
            config = text_format.Parse(text.read_text(), pb.ModelConfig())
            _limit(config, limits)
            if numbers is not None:
                gpus.place(config, numbers)
            place.write_text(text_format.MessageToString(config))


def _limit(config: pb.ModelConfig, limits: Limits) -> None:
    if "variant" in config.parameters:
        variant = json.loads(config.parameters["variant"].string_value)
        if limits.voxels is not None:
            most = variant["size"]["max_voxels"]
            variant["size"]["max_voxels"] = min(most, limits.voxels)
        if limits.waiting is not None:
            variant["limits"]["waiting"] = [0, limits.waiting]
        if limits.seconds is not None:
            variant["limits"]["seconds"] = [0, limits.seconds]
        if limits.memory_gb is not None:
            variant["limits"]["memory_gb"] = [0, limits.memory_gb]
        if limits.spill_gb is not None:
            variant["limits"]["spill_gb"] = [0, limits.spill_gb]
        config.parameters["variant"].string_value = json.dumps(variant)
    if limits.voxels is not None and "network" in config.parameters:
        network = json.loads(config.parameters["network"].string_value)
        if "size" not in network:  # of volumes; masks are made at a size of their own
            network["max_voxels"] = min(network["max_voxels"], limits.voxels)
        config.parameters["network"].string_value = json.dumps(network)
    if limits.waiting is not None and config.HasField("dynamic_batching"):
        config.dynamic_batching.default_queue_policy.max_queue_size = limits.waiting
    if limits.memory_gb is not None and config.backend == "slabs":
        config.parameters["memory_budget_gb"].string_value = f"{limits.memory_gb:g}"
    if limits.spill_gb is not None and config.backend == "slabs":
        config.parameters["spill_limit_gb"].string_value = f"{limits.spill_gb:g}"


def claim_shared_memory() -> tuple[str, int]:
    """Reserve a prefix for this server's names in /dev/shm.

    Returns (prefix, descriptor). The descriptor locks the prefix's marker file; whoever inherits
    it keeps the lock, which the kernel lifts when the last of them is gone, however it went.
    """
    prefix = f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}-"
    descriptor = os.open(SHM / f"{prefix}lock", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return prefix, descriptor


def publish_key(prefix: str, port: int, key: str) -> None:
    """Leave the key to shared memory where our own user's clients of `port` alone can read it."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    with os.fdopen(os.open(SHM / f"{prefix}key-{port}", flags, 0o600), "w") as file:
        file.write(key)


def remove_regions(prefix: str) -> None:
    """Delete what tritonserver and its models have in /dev/shm under `prefix`."""
    for path in SHM.glob(f"{prefix}*"):
        if not path.name.startswith((f"{prefix}lock", f"{prefix}key-")):
            path.unlink(missing_ok=True)


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


def sweep_clients(
    registered: Iterable[str] = (), unregister: Callable[[str], bool] = lambda region: True
) -> None:
    """Delete what dead clients left in /dev/shm and, of that, unregister what is `registered`.

    A client holds the lock of its file while it lives. What is in use is not unregistered yet, and
    stays until it is. A region without a file is a dead client's whose file another server took.
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


def model_names(repository: Path, variants: list[str]) -> list[str]:
    """List the models to load: all (`*`), or those named `V` or `V.something` for each variant V.

    Raises ValueError with one sentence when there is no such repository or variant.
    """
    if not repository.is_dir():
        raise ValueError(f"There is no model repository {repository}: give --repository a folder.")
    here = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    if not here:
        raise ValueError(f"The model repository {repository} holds no */config.pbtxt.")
    for name in here:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise ValueError(
                f"The model repository has a folder {name!r}: expected A-Z, a-z, 0-9 and _ . - in"
                " the name of a model."
            )
    if not variants:
        return ["*"]
    for variant in variants:
        if variant not in here:
            served = sorted({name.split(".")[0] for name in here})
            raise ValueError(
                f"The model repository has no model {variant!r}; it has {json.dumps(served)}."
            )
    return [name for name in here if any(f"{name}.".startswith(f"{v}.") for v in variants)]
