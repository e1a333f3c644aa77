"""The least versions that client/pyproject.toml allows make a volume, a picture and a series."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Server

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Both clients, lookups and shared memory, whatever the size.
CALLS = """
import asyncio, sys
import maisi_client
from maisi_client._transport import shared

mask, url = sys.argv[1:]
shared.THRESHOLD = 1
fill, opened = shared.Region._fill, []
shared.Region._fill = lambda region: opened.append(region) or fill(region)
asked = {"steps": 1, "seed": 1}

async def ask():
    async with maisi_client.aio.Client(url, retries=0) as client:
        assert (await client.info()).keys() == {"mini"}
        return await client.generate(mask, **asked)

with maisi_client.Client(url, retries=0) as client:
    assert client.info().keys() == {"mini"}
    volumes = client.generate(mask, **asked), asyncio.run(ask())
    with_progress = client.stream(mask, steps=100)
    next(with_progress)
    with_progress.close()
assert len(opened) == 3
one, two = (volume.report["sha256"]["image"] for volume in volumes)
assert one == two
print("made")
"""


def least() -> list[str]:
    """Return each dependency of the client and its extras, but PyTorch, at its least version."""
    project: Any = tomllib.loads((ROOT / "client/pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = [
        *project["dependencies"],
        *(n for key in extras if key != "torch" for n in extras[key]),
    ]
    pinned = [re.sub(r">=([\d.]+)$", r"==\1", name) for name in names]
    assert all("==" in name for name in pinned), pinned
    return pinned


def python() -> str:
    """Return an interpreter of Python 3.10 or 3.11, for which those versions exist."""
    for candidate in ("python3.10", "python3.11", sys.executable):
        path = shutil.which(candidate)
        test = "import sys, ensurepip, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 12))"
        if path and subprocess.run([path, "-c", test], capture_output=True).returncode == 0:
            return path
    pytest.skip("no Python 3.10 or 3.11")


@pytest.mark.slow
def test_the_least_versions_make_a_volume(server: Server, tmp_path: Path) -> None:
    def run(*words: str | Path) -> str:
        result = subprocess.run(words, capture_output=True, text=True, timeout=250, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    run(python(), "-m", "venv", tmp_path / "venv")
    shutil.copytree(ROOT / "client", tmp_path / "client", ignore=shutil.ignore_patterns("build"))
    binaries = tmp_path / "venv/bin"
    client = f"{tmp_path / 'client'}[completion,dicom,preview,studio]"
    run(binaries / "python", "-m", "pip", "install", "--quiet", *least(), client)

    mask = ROOT / "examples" / "brain_mask.nii.gz"
    options = ("--steps", "1", "--url", server.grpc, "--preview", "a.png")
    run(binaries / "maisi", "generate", mask, "-o", "a.nii.gz", *options)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    run(binaries / "maisi", "dicom", "a.nii.gz", "--mask", mask, "--to", "series")
    run(binaries / "maisi", "check", "series/mask.dcm", "--url", server.grpc)
    assert "maisi" in run(binaries / "maisi", "completion", "bash")
    run(binaries / "python", "-c", "import maisi_client._studio.serving")
    assert run(binaries / "python", "-c", CALLS, mask, server.grpc) == "made\n"
