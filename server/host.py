"""Check whether this computer can run the embedded server, and advise if it cannot.

This module runs before all others, even if Python is too old for the rest of this package. It
therefore has no syntax newer than Python 3.8.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

_INSTEAD = "Use NVIDIA's image nvcr.io/nvidia/tritonserver (25.01-py3 or newer) instead"
PYTHONS = ((3, 10), (3, 11), (3, 12))
SHM = Path("/dev/shm")
SHM_MINIMUM = 64 << 20


@dataclass(frozen=True)
class Host:
    """The properties of a computer that the server depends on.

    `libc` is name and version, `python` major and minor version, and `shm_free` is in bytes.
    """

    system: str
    machine: str
    libc: tuple[str, str]
    python: tuple[int, int]
    libpython: bool
    numpy: str
    triton: Path | None
    shm_free: int


def inspect() -> Host:
    """Return the properties of this computer and of this interpreter."""
    version = sys.version_info[:2]
    try:
        numpy = importlib.metadata.version("numpy")
    except importlib.metadata.PackageNotFoundError:
        numpy = ""
    try:
        shm_free = shutil.disk_usage(SHM).free
    except OSError:
        shm_free = 0
    return Host(
        platform.system(),
        platform.machine(),
        platform.libc_ver(),
        (version[0], version[1]),
        has_libpython(),
        numpy,
        find_triton(),
        shm_free,
    )


def has_libpython() -> bool:
    """Return whether the interpreter's shared library, which Triton loads, is installed."""
    try:
        ctypes.CDLL(str(libpython_dir() / libpython_name()))
        return True
    except OSError:
        pass
    try:
        ctypes.CDLL(libpython_name())
        return True
    except OSError:
        return False


def libpython_dir() -> Path:
    """Return the folder of the interpreter's shared library, from its build configuration."""
    return Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")


def libpython_name() -> str:
    """Return the name of the interpreter's shared library that Triton's Python backend loads."""
    return f"libpython{sys.version_info[0]}.{sys.version_info[1]}.so.1.0"


def is_wsl(release: Path = Path("/proc/sys/kernel/osrelease")) -> bool:
    """Return whether the kernel belongs to WSL, the Windows Subsystem for Linux."""
    try:
        return "microsoft" in release.read_text().lower()
    except OSError:
        return False


def has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the processor computes in bfloat16, as OpenVINO can use it."""
    lines = cpuinfo.read_text().splitlines()
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return "avx512_bf16" in flags or "amx_bf16" in flags


def find_triton() -> Path | None:
    """Return the folder of Triton in the wheel nvidia-pytriton; None without the wheel."""
    spec = importlib.util.find_spec("pytriton")
    for package in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(package, "tritonserver")
        if os.access(folder / "bin" / "tritonserver", os.X_OK):
            return folder
    return None


def unfit(host: Host) -> str | None:
    """Return why this computer or Python cannot run the server, with advice; None if it can."""
    if host.system != "Linux" or host.machine != "x86_64":
        return (
            f"The embedded server runs on x86-64 Linux, and this is {host.system} on"
            f" {host.machine}. {_INSTEAD}, here or on another computer."
        )
    name, version = host.libc
    if name != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < (2, 35):
        library = f"{name} {version}" if name else "another C library"
        return (
            "The embedded server needs glibc 2.35 or newer (Ubuntu 22.04, Debian 12, Fedora 36),"
            f" and this system has {library}. {_INSTEAD}."
        )
    python = ".".join(str(part) for part in host.python)
    if host.python not in PYTHONS:
        return (
            f"The embedded server needs Python 3.10, 3.11 or 3.12, and this is {python}."
            " Install one of them beside it (on Ubuntu 24.04: apt install python3.12-venv) and"
            " start scripts/serve, which finds it."
        )
    if not host.libpython:
        return (
            f"This Python {python} came without its shared library (libpython{python}.so.1.0),"
            f" which Triton loads. On Debian and Ubuntu: apt install libpython{python};"
            " with pyenv: build with PYTHON_CONFIGURE_OPTS=--enable-shared."
        )
    if host.shm_free < SHM_MINIMUM:
        return (
            f"/dev/shm has {host.shm_free >> 20} MB free, and the server needs"
            f" {SHM_MINIMUM >> 20} MB or more. In Docker: --shm-size=2g; elsewhere:"
            " mount -o remount,size=2g /dev/shm."
        )
    return None


def refusal(host: Host) -> str | None:
    """Return why the server cannot run in this Python environment, with advice; None if it can."""
    if problem := unfit(host):
        return problem
    if host.triton is None:
        return (
            "Triton is not installed in this Python environment. Start the server through"
            " scripts/serve or maisi-triton serve, which install it, or: pip install --no-deps"
            " nvidia-pytriton==0.7.0."
        )
    if host.numpy and int(host.numpy.split(".")[0]) >= 2:
        return (
            f"numpy {host.numpy} is installed, and this Triton's Python backend was built for"
            " numpy 1: with numpy 2 every tensor it returns is empty. Run: pip install 'numpy<2'."
        )
    return None


if __name__ == "__main__":
    sys.exit(unfit(inspect()))
