"""The command, as a shell sees it: exit code, stdout, stderr, files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

NOBODY = "127.0.0.1:9"  # the discard port: nothing listens


def maisi(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "maisi_client", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **env}
    )


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    path = tmp_path / "mask.nii.gz"
    nib.save(nib.Nifti1Image(np.full((32, 32, 32), 22, np.uint8), np.eye(4)), path)
    return path


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("generate",),
        ("generate", "mask.nii"),
        ("generate", "-o", "a.nii", "--seed", "x"),
        ("generate", "-o", "a.nii", "--size", "1,2,x"),
        ("dream",),
    ],
)
def test_wrong_usage_is_2(args: tuple[str, ...]) -> None:
    done = maisi(*args)
    assert done.returncode == 2
    assert "usage: maisi" in done.stderr
    assert done.stdout == ""


def test_help_tells_the_exit_codes() -> None:
    assert "130 cancelled" in maisi("generate", "--help").stdout


@pytest.mark.parametrize("command", [("info",), ("generate", "-o", "a.nii.gz")])
def test_no_server(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = maisi(*command, "--timeout", "1", MAISI_URL=NOBODY)
    assert done.returncode == 1
    assert done.stderr == f"maisi: no server answers at {NOBODY}: Connection refused\n"
    assert done.stdout == ""


def test_errors_as_json() -> None:
    done = maisi("info", "--json", "--url", NOBODY, "--timeout", "1")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "ServerUnavailable"
    assert done.stderr == f"maisi: {error['message']}\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("no.nii", "-o", "a.nii"), "mask 'no.nii' does not exist"),
        (("-o", "a.mha"), "its name must end in .nii.gz or .nii"),
        (("-o", "no/a.nii"), "folder 'no' does not exist"),
        (("-o", "a.nii", "--preview", "no/a.png"), "folder 'no' does not exist"),
        (("-o", "a.nii", "--spacing", "nan"), "spacing is"),
        (("-o", "a.nii", "--url", "http://localhost:8000"), "allowed is host:port"),
        (("-o", "a.nii", "--steps", str(2**40)), "steps is [1099511627776]"),
    ],
)
def test_what_needs_no_server_fails_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = maisi("generate", *args, MAISI_URL=NOBODY)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_truncated_mask(mask: Path, tmp_path: Path) -> None:
    mask.write_bytes(mask.read_bytes()[:-20])
    done = maisi("generate", mask, "-o", tmp_path / "a.nii", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["type"] == "MaskError"
    assert list(tmp_path.iterdir()) == [mask]


def test_preview_of_files(mask: Path, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    done = maisi("preview", mask, mask, "-o", tmp_path / "p.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
