"""Find perf_analyzer on PATH or in a cache, or install it into the cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

VERSION = "2.60.0"
_SHA256 = "23ef56b107ae9233e5cf09fbdf508dd9b936a52f1bae2f63f53c8117087b3f25"
_PLATFORM = "manylinux_2_38_x86_64"  # the platform of its wheel: glibc 2.38 or newer
# Debian packages of the libraries that perf_analyzer links to, for a system with older libraries.
_LIBRARIES = ("libc6", "libgcc-s1", "libssl3t64", "libstdc++6", "libzstd1", "zlib1g")
_SUITE = "trixie"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_TRIPLET = Path("usr", "lib", "x86_64-linux-gnu")
INSTEAD = (
    "Put a perf_analyzer that runs on this system on PATH, or run this command in NVIDIA's SDK"
    " image nvcr.io/nvidia/tritonserver:25.01-py3-sdk, which has perf_analyzer."
)


class Unavailable(RuntimeError):
    """perf_analyzer is missing and cannot be installed; the message is for the user."""


def command() -> list[str]:
    """Return the command of perf_analyzer; install it if it is neither on PATH nor in the cache.

    Raises Unavailable if it cannot be installed or does not start.
    """
    program = shutil.which("perf_analyzer")
    if program and _runs([program]):
        return [program]
    folder = cache()
    if not folder.is_dir():
        _install(folder)
    for words in (_plain(folder), _with_libraries(folder)):
        if _runs(words):
            return words
    raise Unavailable(
        f"The perf_analyzer in {folder} does not start on this system: delete that folder and try"
        f" again. {INSTEAD}"
    )


def cache() -> Path:
    """Return the folder into which perf_analyzer is installed."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "maisi-triton", f"perf_analyzer-{VERSION}")


def _plain(folder: Path) -> list[str]:
    return [str(folder / "perf_analyzer")]


def _with_libraries(folder: Path) -> list[str]:
    libraries = folder / _TRIPLET
    loader = libraries / "ld-linux-x86-64.so.2"
    return [str(loader), "--library-path", str(libraries), *_plain(folder)]


def _runs(words: Sequence[str]) -> bool:
    try:
        return (
            subprocess.run([*words, "--version"], capture_output=True, timeout=60).returncode == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


def _install(folder: Path) -> None:
    """Install perf_analyzer into `folder`; after an error, `folder` does not exist."""
    print(f"installing perf_analyzer {VERSION} into {folder} (once) ...", file=sys.stderr)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as new:
            draft = Path(new, "perf_analyzer")
            draft.mkdir()
            _download(draft)
            if not _runs(_plain(draft)):
                _add_libraries(draft)
            with suppress(FileExistsError):  # another process was faster
                draft.rename(folder)
    except OSError as error:
        raise Unavailable(
            f"perf_analyzer cannot be installed into {folder}: {error.strerror}. {INSTEAD}"
        ) from None


def _download(draft: Path) -> None:
    """Download the wheel and extract the program to `draft`."""
    # The platform is named because pip hides wheels that need a newer glibc than the system has.
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    pip += ["--only-binary=:all:", f"--platform={_PLATFORM}", "--dest", str(draft)]
    _must([*pip, f"perf-analyzer=={VERSION}"], f"pip cannot download perf-analyzer {VERSION}")
    (wheel,) = draft.glob("*.whl")
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != _SHA256:
        raise Unavailable(f"{wheel.name} does not have the SHA-256 of the published file.")
    with zipfile.ZipFile(wheel) as archive:
        program = archive.read("perf_analyzer/bin/perf_analyzer")
    (draft / "perf_analyzer").write_bytes(program)
    (draft / "perf_analyzer").chmod(0o755)
    wheel.unlink()


def _add_libraries(draft: Path) -> None:
    """Extract Debian 13's libraries, which apt verifies, to `draft`; the system does not change."""
    missing = [tool for tool in ("apt-get", "dpkg-deb") if not shutil.which(tool)]
    if missing or not _KEYRING.is_file():
        raise Unavailable(
            f"perf_analyzer {VERSION} needs glibc 2.38 and OpenSSL 3 (Ubuntu 24.04, Debian 13)."
            " To download newer libraries for it, this system needs apt-get, dpkg-deb and the"
            f" package debian-archive-keyring. {INSTEAD}"
        )
    apt = draft / "apt"
    for name in ("lists/partial", "cache/archives/partial", "packages"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    settings = {
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "root",  # the user `_apt` may lack write permission here
        "Acquire::Languages": "none",
        "Dir::Cache": apt / "cache",
        "Dir::Etc::SourceList": apt / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": apt / "lists",
        "Dir::State::Status": apt / "status",
    }
    get = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in settings.items())]
    why = "the libraries of Debian 13, which perf_analyzer needs here, cannot be downloaded"
    for archive in _archives():
        source = f"deb [arch=amd64 signed-by={_KEYRING}] {archive} {_SUITE} main\n"
        (apt / "sources.list").write_text(source)
        if subprocess.run([*get, "update"], capture_output=True).returncode == 0:
            break
    else:
        raise Unavailable(f"None of the archives in apt's configuration has Debian 13. {INSTEAD}")
    _must([*get, "download", *_LIBRARIES], why, apt / "packages")
    for package in (apt / "packages").glob("*.deb"):
        _must(["dpkg-deb", "--extract", str(package), str(draft)], f"{package.name} is broken")
    shutil.rmtree(apt)


def _archives() -> list[str]:
    """Return the addresses of the archives in the configuration of this system's apt."""
    uris = subprocess.run(["apt-get", "update", "--print-uris"], capture_output=True, text=True)
    return list(dict.fromkeys(re.findall(r"^'(\S+)/dists/", uris.stdout, re.MULTILINE)))


def _must(words: Sequence[str], why: str, folder: Path | None = None) -> None:
    process = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    if process.returncode:
        last = (process.stderr.strip() or "no reason given").splitlines()[-1].rstrip(".")
        raise Unavailable(f"{why[0].upper()}{why[1:]}: {last}. {INSTEAD}")
