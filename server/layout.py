"""The folders that tritonserver needs: backends, models, libpython and python3."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2 as pb

from server import gpus
from server.host import libpython_dir

# Settings of glibc's malloc for tritonserver, whose memory grew under volumes of many sizes, from
# three hundred threads: one arena, and large blocks are freed at once
# (docs/explanation/reliability.md, Soak).
MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
# Networks on a CPU run in the stubs' processes, which would be slower with these settings. Most of
# the time in the kernel is for new pages, of which huge pages need fewer (manual of glibc, Memory
# Allocation Tunables).
HUGE_PAGES = "glibc.malloc.hugetlb=1"
_STUB = """#!/bin/sh
unset {names}
export GLIBC_TUNABLES="{tunable}${{GLIBC_TUNABLES:+:$GLIBC_TUNABLES}}"
exec {stub} "$@"
"""


@dataclass(frozen=True)
class Limits:
    """Limits of this server that are lower than those of the models; None means the models' limit.

    `voxels` limits the volume, `waiting` the requests in a queue, and `seconds` the time of a
    request. `memory_gb` and `spill_gb` limit the memory and the disk space, in 10^9 bytes, that a
    request may use in each network of slabs.
    """

    voxels: int | None = None
    waiting: int | None = None
    seconds: int | None = None
    memory_gb: float | None = None
    spill_gb: float | None = None


UNLIMITED = Limits()


@dataclass(frozen=True)
class Folders:
    """The folders of tritonserver: backends, models, libpython and the program python3."""

    backends: Path
    models: Path
    libraries: Path
    programs: Path


def lay_out(
    triton: Path,
    own_backends: Path | None,
    repository: Path,
    limits: Limits,
    numbers: tuple[int, ...] | None,
    target: Path,
    bfloat16: bool = False,
) -> Folders:
    """Write the folders of tritonserver into the new folder `target`, which has a plain path.

    `own_backends` has the packages of our backends; None if `triton` contains them. `numbers` are
    the GPUs for networks; None lets Triton choose. With `bfloat16`, networks compute in it on the
    CPU. All other paths are reached by links: Triton does not quote paths for its shell, the
    interpreters of models accept only ASCII, and the loader splits LD_LIBRARY_PATH at semicolons.
    Raises ValueError for a configuration that cannot be read.
    """
    folders = Folders(*(target / name for name in ("backends", "models", "lib", "python/bin")))
    if own_backends is None:
        folders.backends.symlink_to((triton / "backends").absolute())
    else:
        write_backends(triton, own_backends, folders.backends)
    if limits == UNLIMITED and numbers is None and not bfloat16:
        folders.models.symlink_to(repository.absolute())
    else:
        write_models(repository, limits, numbers, folders.models, bfloat16)
    folders.libraries.symlink_to(libpython_dir())
    if all(map(str.isascii, [sys.prefix, sys.base_prefix, *sys.path])):
        return replace(folders, programs=Path(sys.executable).parent)
    write_environment(folders.programs)
    return folders


def write_environment(programs: Path) -> None:
    """Make a virtual environment whose folder of programs is `programs`.

    It has links to this interpreter and its packages. It has no *.pth files, because such a file
    with content that is not ASCII ends the interpreters of models.
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
                if path.suffix != ".pth" and not link.is_symlink():  # keep the first one
                    link.symlink_to(path)


def write_backends(triton: Path, own_backends: Path, target: Path) -> None:
    """Write Triton's Python backend and the packages in `own_backends` to the new folder `target`.

    Triton refuses a link to a shared library outside of the backend directory. The library and its
    utilities are therefore copied, and the other files are linked. A script starts the stub without
    the variables of `MALLOC`, and with `HUGE_PAGES`.
    """
    python = target / "python"
    python.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy(triton / "backends" / "python" / name, python)
    stub = "triton_python_backend_stub"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    (python / version).symlink_to((triton / "python_backend_stubs" / version).absolute())
    (python / stub).write_text(
        _STUB.format(names=" ".join(MALLOC), tunable=HUGE_PAGES, stub=python / version / stub)
    )
    (python / stub).chmod(0o755)
    for module in sorted(own_backends.glob("*/__init__.py")):
        (target / module.parent.name).symlink_to(module.parent.resolve())


def write_models(
    repository: Path,
    limits: Limits,
    numbers: tuple[int, ...] | None,
    target: Path,
    bfloat16: bool = False,
) -> None:
    """Write the models of `repository` to the new folder `target`, with lower limits.

    The configurations that clients read also have these limits. Networks are placed on the GPUs
    `numbers`, or compute in `bfloat16` on the CPU. Files of the models are linked. Raises
    ValueError for a configuration that cannot be read.
    """
    for source in sorted(repository.glob("*/config.pbtxt")):
        folder = target / source.parent.name
        folder.mkdir(parents=True)
        for path in source.parent.iterdir():
            if path.is_dir() and path.name != "configs":
                (folder / path.name).symlink_to(path.resolve())
        for original in (source, *source.parent.glob("configs/*.pbtxt")):
            target_path = folder / original.relative_to(source.parent)
            target_path.parent.mkdir(exist_ok=True)
            config = gpus.read_config(original)
            _limit(config, limits)
            if bfloat16:
                _compute_in_bfloat16(config)
            if numbers is not None:
                gpus.place(config, numbers)
            target_path.write_text(text_format.MessageToString(config))


def _limit(config: pb.ModelConfig, limits: Limits) -> None:
    if "variant" in config.parameters:
        variant = json.loads(config.parameters["variant"].string_value)
        if limits.voxels is not None:
            size = variant["size"]
            size["max_voxels"] = min(size["max_voxels"], limits.voxels)
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
        if (
            "size" not in network
        ):  # a network for volumes; the limit does not apply to mask networks
            network["max_voxels"] = min(network["max_voxels"], limits.voxels)
        config.parameters["network"].string_value = json.dumps(network)
    if limits.waiting is not None and config.HasField("dynamic_batching"):
        config.dynamic_batching.default_queue_policy.max_queue_size = limits.waiting
    if limits.memory_gb is not None and config.backend == "slabs":
        config.parameters["memory_budget_gb"].string_value = f"{limits.memory_gb:g}"
    if limits.spill_gb is not None and config.backend == "slabs":
        config.parameters["spill_limit_gb"].string_value = f"{limits.spill_gb:g}"


def _compute_in_bfloat16(config: pb.ModelConfig) -> None:
    if "network" in config.parameters:
        config.parameters["engine"].string_value = "openvino-bfloat16"  # backends/engines/choice.py
    if "variant" in config.parameters:
        variant = json.loads(config.parameters["variant"].string_value)
        config.parameters["variant"].string_value = json.dumps({**variant, "bfloat16": True})


def expect_no_plans(repository: Path, names: Iterable[str], version: int | None) -> None:
    """Raise ValueError if `version` of a model to load, or its newest one, has plans."""
    for name in names:
        folders = (path.name for path in (repository / name).iterdir())
        served = version or max(map(int, filter(str.isdecimal, folders)), default=0)
        if any((repository / name / str(served)).glob("*.plan")):
            raise ValueError(f"--gpus: none, but {name} has plans, which need a GPU.")


def model_names(repository: Path, variants: list[str], version: int | None = None) -> list[str]:
    """Return the models to load: all, or `V` and `V.something` for each variant V.

    Raises ValueError if there is no such repository or variant, or if a model has no `version`, in
    whose place Triton would load the newest.
    """
    if not repository.is_dir():
        raise ValueError(f"There is no model repository {repository}: give --repository a folder.")
    names = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    if not names:
        raise ValueError(f"The model repository {repository} has no */config.pbtxt.")
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise ValueError(
                f"The model repository has a folder {name!r}: expected A-Z, a-z, 0-9 and _ . - in"
                " the name of a model."
            )
    available = sorted({name.split(".")[0] for name in names})
    for variant in variants:
        if variant not in available:
            raise ValueError(
                f"The model repository has no model {variant!r}; it has {json.dumps(available)}."
            )
    if variants:
        names = [name for name in names if any(f"{name}.".startswith(f"{v}.") for v in variants)]
    for name in names:
        if version is not None and not (repository / name / str(version)).is_dir():
            raise ValueError(f"--version: {name} has no version {version} in {repository}.")
    return names
