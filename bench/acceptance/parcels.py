"""Write archives as numbered files of a limited size, and set up a machine from these files.

    python3 unpack.py --unpack DIR

This module needs only Python with pip and PyTorch. Its copy, `unpack.py`, is in the folder of the
files. `manifest.json` lists the archives in order, and the SHA-256 of each file. An archive is a
tar file that xz has compressed: `tree/` is the project, pip installs `wheels/`, and `site/` is
copied to the folder of the packages.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import shutil
import site
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

MANIFEST, TREE = "manifest.json", "maisi-triton"
_STAMPED = ("pyproject.toml", "client/pyproject.toml", "scripts/_venv")
_CHUNK = 1 << 20


class Broken(Exception):
    """The files cannot be unpacked; the message is one sentence."""


class _Parts(io.RawIOBase):
    """A stream that writes to files NAME.000, NAME.001 ... of at most `limit` bytes each."""

    def __init__(self, folder: Path, name: str, limit: int) -> None:
        self.folder, self.name, self.limit = folder, name, limit
        self.parts: list[dict[str, Any]] = []
        self.file: Any = None
        self.free = 0
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Write all of `data` to one or more files; return the number of bytes."""
        rest = memoryview(data)
        while rest:
            if not self.free:
                self._next()
            piece = rest[: self.free]
            self.file.write(piece)
            self.digest.update(piece)
            self.free -= len(piece)
            rest = rest[len(piece) :]
        return len(data)

    def _next(self) -> None:
        self._finish()
        path = self.folder / f"{self.name}.{len(self.parts):03}"
        self.file, self.free, self.digest = path.open("wb"), self.limit, hashlib.sha256()
        self.parts.append({"file": path.name})

    def _finish(self) -> None:
        if self.file is not None:
            size = self.file.tell()
            self.file.close()
            self.parts[-1] |= {"bytes": size, "sha256": self.digest.hexdigest()}
            self.file = None

    def close(self) -> None:
        """Finish the last file."""
        self._finish()
        super().close()


def write(
    folder: Path, name: str, limit: int, members: Iterable[tuple[str, Path]]
) -> dict[str, Any]:
    """Write an archive of `members`, which are pairs of a name and a file.

    Return the entry of the archive in the manifest.
    """
    parts: Any = _Parts(folder, name, limit)
    with (
        parts,
        # Most of the content is compressed already or zeros, so a higher preset gains little.
        lzma.open(parts, "wb", preset=1) as packed,
        tarfile.open(fileobj=packed, mode="w|") as tar,
    ):
        for inner, path in members:
            tar.add(path, inner, recursive=False)
    return {"name": name, "parts": parts.parts}


class _Joined(io.RawIOBase):
    """A stream that reads files one after the other."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.chunks = _chunks(paths)
        self.rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with the next bytes, at most one chunk."""
        if not self.rest:
            self.rest = next(self.chunks, b"")
        count = min(len(buffer), len(self.rest))
        buffer[:count], self.rest = self.rest[:count], self.rest[count:]
        return count


def _chunks(paths: Sequence[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk


def missing(folder: Path, archive: dict[str, Any]) -> list[str]:
    """Return the names of the missing files of an archive; raise Broken if a file is damaged."""
    absent = []
    for part in archive["parts"]:
        path, digest = folder / part["file"], hashlib.sha256()
        if not path.is_file():
            absent.append(part["file"])
            continue
        for chunk in _chunks([path]):
            digest.update(chunk)
        if digest.hexdigest() != part["sha256"]:
            raise Broken(
                f"{path.name} is damaged: it has {path.stat().st_size} bytes, {MANIFEST} lists"
                f" {part['bytes']} bytes, and the SHA-256 differs; copy the file again"
            )
    return absent


def extract(folder: Path, archive: dict[str, Any], target: Path) -> None:
    """Extract an archive to `target`; all its files must be in `folder`."""
    joined = io.BufferedReader(_Joined([folder / part["file"] for part in archive["parts"]]))
    with lzma.open(joined, "rb") as packed, tarfile.open(fileobj=packed, mode="r|") as tar:
        tar.extractall(target, filter="data")


def unpack(folder: Path) -> list[str]:
    """Extract and install complete archives in order; return the names of the missing files.

    Raises Broken if the manifest is missing, if it is for another Python, if a file is damaged, or
    if an installation fails.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise Broken(f"{MANIFEST}: {error.strerror}; copy it with the first files") from None
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if manifest["python"] != here:
        raise Broken(f"the files are for Python {manifest['python']}, but this is Python {here}")
    absent: list[str] = []
    for archive in manifest["archives"]:
        done = folder / f"{archive['name']}.done"
        if done.exists():
            continue
        absent += missing(folder, archive)
        if absent:
            continue
        whole = folder / f"{archive['name']}.whole"
        shutil.rmtree(whole, ignore_errors=True)
        extract(folder, archive, whole)
        install(whole, folder / TREE)
        shutil.rmtree(whole)
        done.touch()
    if not absent:
        stamp = hashlib.sha256(b"".join((folder / TREE / x).read_bytes() for x in _STAMPED))
        text = f"{stamp.hexdigest()}  -\n"  # the format of scripts/_venv
        (folder / TREE / ".venv" / "acceptance.stamp").write_text(text)
    return absent


def install(whole: Path, tree: Path) -> None:
    """Install the extracted archive `whole` into `tree`: the project, wheels and single files."""
    if (whole / "tree").is_dir():
        shutil.rmtree(tree, ignore_errors=True)
        os.replace(whole / "tree", tree)
        _make_venv(tree)
    packages = _packages(tree)
    if wheels := sorted(map(str, whole.glob("wheels/*.whl"))):
        python = str(tree / ".venv" / "bin" / "python")
        words = ["--python", python, "install", "--quiet", "--no-index", "--no-deps"]
        command = [sys.executable, "-m", "pip", *words, "--no-compile", *wheels]
        if subprocess.run(command, stdout=2).returncode:
            raise Broken("pip could not install the wheels; its log is above")
    if (whole / "site").is_dir():
        shutil.copytree(whole / "site", packages, dirs_exist_ok=True)


def _packages(tree: Path) -> Path:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return tree / ".venv" / "lib" / version / "site-packages"


def _make_venv(tree: Path) -> None:
    """Create the environment of the tree; it can also import the packages of this interpreter."""
    command = [sys.executable, "-m", "venv", "--without-pip", str(tree / ".venv")]
    if subprocess.run(command, stdout=2).returncode:
        raise Broken("python3 -m venv failed; its log is above")
    packages = _packages(tree)
    folders = [path for path in site.getsitepackages() if Path(path).is_dir()]
    lines = [str((tree / "client" / "src").resolve()), *folders]
    (packages / "acceptance.pth").write_text("\n".join(lines) + "\n")
    # ONNX Runtime looks for CUDA's libraries in its own folder of packages.
    for path in folders:
        if (source := Path(path, "nvidia")).is_dir() and not (packages / "nvidia").exists():
            (packages / "nvidia").symlink_to(source)


def main(arguments: Sequence[str]) -> int:
    """Run `--unpack DIR`; return the exit status, which is 3 if files are missing."""
    if len(arguments) != 2 or arguments[0] != "--unpack":
        print("usage: --unpack DIR", file=sys.stderr)
        return 2
    folder = Path(arguments[1]).resolve()
    try:
        absent = unpack(folder)
    except Broken as error:
        print(f"acceptance: {error}", file=sys.stderr)
        return 1
    if absent:
        print(f"acceptance: missing files: {', '.join(absent)}")
        return 3
    print(f"acceptance: complete; run {folder / TREE}/scripts/acceptance")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
