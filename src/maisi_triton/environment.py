"""The Python environment of a command, which is made at its first start.

Triton's Python backend needs numpy 1, and the requirements of Triton's wheel exclude other
packages. Both are therefore installed separately from the caller's packages.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.metadata
import re
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

from maisi_triton import folders

LOCKS = folders.PACKAGE / "locks"
TORCH_FOR_CPU = "https://download.pytorch.org/whl/cpu"
NVIDIA = "https://pypi.nvidia.com"
# The extra that each target of `export build` needs.
TARGETS = {"tensorrt-rtx": "rtx", "tensorrt": "tensorrt"}
# A requirement of an extra in the form of hatchling: requirement, marker, extra.
_EXTRA = re.compile(r"""(.*?)\s*;\s*(?:(.*)\s+and\s+)?extra == ['"]([\w-]+)['"]""")


class CannotInstall(Exception):
    """The environment cannot be made; the message is one sentence."""


def serve() -> Path:
    """Return the interpreter of the environment that serves; raises CannotInstall."""
    lock = LOCKS / ("gpu.txt" if has_gpu() else "serve.txt")
    words = ["--no-deps", "--require-hashes", "--requirement", str(lock)]
    return _interpreter(lock.stem, lock.read_text(), words)


def export(arguments: list[str]) -> Path:
    """Return the interpreter of the environment that exports; raises CannotInstall.

    `arguments` are those of the export. A build for TensorRT has a separate environment.
    """
    words = {word.removeprefix("--target=") for word in arguments}
    extra = next((extra for target, extra in TARGETS.items() if target in words), None)
    packages = requirements("serve", "export", *([extra] if extra else []))
    indexes = ["--extra-index-url", NVIDIA] if extra == "tensorrt" else []
    # The CPU build of PyTorch has a tenth of the size; use it if its index can be reached.
    with suppress(OSError), urllib.request.urlopen(f"{TORCH_FOR_CPU}/", timeout=10):
        indexes += ["--extra-index-url", TORCH_FOR_CPU]
    name = f"export-{extra}" if extra else "export"
    return _interpreter(name, "\n".join(packages), [*packages, *indexes])


def has_gpu() -> bool:
    """Return whether there is an NVIDIA driver, and the GPU's engine supports this Python."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return sys.version_info >= (3, 11)


def requirements(*extras: str) -> list[str]:
    """Return the requirements of extras of this distribution, for pip's command line."""
    lines = []
    for line in importlib.metadata.requires("maisi-triton") or []:
        parts = _EXTRA.fullmatch(line)
        if parts is not None and parts[3] in extras:
            requirement, marker = parts[1], parts[2]
            lines.append(f"{requirement} ; {marker}" if marker else requirement)
    return lines


def _interpreter(name: str, content: str, words: list[str]) -> Path:
    """Return the interpreter of an environment with the packages of `pip install WORDS`.

    The environment is made if it does not exist or is incomplete. The name of its folder has the
    version of Python, and a digest of `content` and of the folder of this Python.
    """
    digest = hashlib.sha256(f"{sys.base_prefix}\n{content}".encode()).hexdigest()[:12]
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    folder = folders.cache() / f"{name}-{version}-{digest}"
    python, whole = folder / "bin" / "python", folder / "complete"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log(f"waiting for another process that installs into {folder}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not (whole.exists() and python.exists()):
                _make(folder, words)
                whole.touch()
    except OSError as error:
        raise CannotInstall(f"{error.filename or folder}: {error.strerror or error}.") from None
    return python


def _make(folder: Path, words: list[str]) -> None:
    log(f"installing into {folder} (once) ...")
    command = [sys.executable, "-m", "venv", "--clear", str(folder)]
    # Print to standard error, because standard output belongs to the command.
    if subprocess.run(command, stdout=2).returncode:
        raise CannotInstall(
            f"python -m venv failed in {folder}; the reason is above. On Debian and Ubuntu it needs"
            f" the package python{sys.version_info[0]}.{sys.version_info[1]}-venv."
        )
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    if subprocess.run([*pip, "--no-compile", *words], stdout=2).returncode:
        raise CannotInstall(
            "pip could not install the required packages; the reason is above. Run the same command"
            " to try again."
        )
    log("installed")


def log(line: str) -> None:
    """Write a line to standard error."""
    print(f"maisi-triton: {line}", file=sys.stderr, flush=True)
