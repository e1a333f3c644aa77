"""The command, as a shell sees it: exit code, stdout, stderr, files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from maisi_client import Client, InvalidRequest, Volume
from maisi_client._cli.generate import generate
from maisi_client._cli.parser import parser

from tests.client.shell import maisi

NOBODY = "127.0.0.1:9"  # the discard port: nothing listens


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines of stderr but for warnings, which small volumes have."""
    lines = done.stderr.splitlines()
    return [line for line in lines if not line.startswith("maisi: warning: ")]


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
    assert (error["kind"], error["retry_after"]) == ("unavailable", None)
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


def test_preview_of_a_volume_alone(mask: Path, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    grid = np.arange(-100, 32**3 - 100, dtype=np.int16).reshape(32, 32, 32)
    volume = tmp_path / "volume.nii"
    nib.save(nib.Nifti1Image(grid, np.eye(4)), volume)
    pictures = []
    for words in (("--volume", volume), (mask, volume), (mask, "--volume", volume), (mask,)):
        done = maisi("preview", *words, "-o", tmp_path / "p.png")
        assert (done.returncode, done.stderr) == (0, "")
        pictures.append((tmp_path / "p.png").read_bytes())
    assert pictures[1] == pictures[2] and len(set(pictures)) == 3
    done = maisi("preview", volume, "-o", tmp_path / "p.png")
    assert done.returncode == 1
    assert done.stderr.endswith("; a volume without a mask is given as --volume\n")


def test_generate_writes_volume_report_and_picture(server: Any, mask: Path, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    out, picture = tmp_path / "t2.nii.gz", tmp_path / "t2.png"
    asked = ("--modality", "mri_t2", "--seed", "3", "--steps", "1", "--url", server.grpc)
    done = maisi("generate", mask, "-o", out, "--preview", picture, *asked)
    assert (done.returncode, done.stdout, said(done)) == (0, "", [])  # quiet in a pipe
    assert {p.name for p in tmp_path.iterdir()} == {"mask.nii.gz", "t2.nii.gz", "t2.json", "t2.png"}
    report = json.loads((tmp_path / "t2.json").read_text())
    assert (report["seed"], report["modality"], report["synthetic"]) == (3, "mri_t2", True)
    assert nib.load(out).shape == (32, 32, 32)
    assert picture.read_bytes().startswith(b"\x89PNG")

    again = maisi("generate", mask, "-o", tmp_path / "again.nii.gz", *asked, "--json")
    line = json.loads(again.stdout)
    assert line["report"]["seed"] == 3 and line["output"].endswith("again.nii.gz")
    assert (tmp_path / "again.nii.gz").read_bytes() == out.read_bytes()


def test_generate_without_a_mask(server: Any, tmp_path: Path) -> None:
    out = tmp_path / "image.nii"
    asked = ("--size", "32,40,32", "--spacing", "2", "--steps", "1", "--guidance", "2")
    asked += ("--guidance-interval", "0.2,0.8", "--solver", "heun")
    done = maisi("generate", "-o", out, *asked, MAISI_URL=server.grpc)
    assert (done.returncode, said(done)) == (0, [])
    assert nib.load(out).shape == (32, 40, 32)
    assert json.loads((tmp_path / "image.json").read_text())["guidance_interval"] == [0.2, 0.8]


def test_check_sends_what_generate_takes(server: Any, mask: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.nii"
    nib.save(nib.Nifti1Image(np.full((32, 32, 32), 500, np.int16), np.eye(4)), source)
    asked = ("--source", source, "--strength", "0.4", "--solver", "heun", "--seed", "9")
    asked += ("--guidance", "2", "--guidance-interval", "0.2,0.8", "--redraws", "1", "--augment")
    asked += ("--organs", "brain", "--steps", "7", "--url", server.grpc)
    told = json.loads(maisi("check", mask, "--json", *asked).stdout)
    expected = {"strength": 0.4, "solver": "heun", "seed": 9, "redraws": 1, "augmented": True}
    expected |= {"guidance_interval": [0.2, 0.8], "organs": [22], "steps": 7, "sourced": True}
    assert told.items() >= expected.items()
    refused = maisi("check", "--anatomy", "liver=0.5", "--url", server.grpc)
    assert refused.returncode == 1 and refused.stderr.startswith("maisi: anatomy: ")
    refused = maisi("check", mask, "--top-region", "chest", "--url", server.grpc)
    assert refused.returncode == 1 and refused.stderr.startswith("maisi: top_region: ")


def test_a_refusal_of_the_server(server: Any, mask: Path, tmp_path: Path) -> None:
    done = maisi("generate", mask, "-o", tmp_path / "a.nii", "--steps", "0", "--url", server.grpc)
    assert done.returncode == 1
    assert done.stderr.startswith("maisi: steps: 0 ") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [mask]


def test_info(server: Any) -> None:
    told = maisi("info", "--url", server.grpc)
    assert told.returncode == 0
    assert "mri_flair" in told.stdout and "22 brain" in told.stdout
    machine = json.loads(maisi("info", "--json", "--url", server.grpc).stdout)
    assert machine["mini"]["modalities"]["mri_t1"] == 9
    assert machine["mini"]["labels"]["22"] == "brain"


def test_what_a_preset_is_bad_at_is_said_before_and_after(server: Any, tmp_path: Path) -> None:
    told = maisi("info", "--url", server.grpc).stdout
    assert "  caveat        brain-t1, brain-t2, brain-flair, brain-swi: without a mask" in told
    asked = ("--preset", "brain-t2", "--steps", "1", "--url", server.grpc)
    said = "maisi: warning: preset brain-t2: without a mask mini makes no head"
    assert said in maisi("check", *asked).stderr
    assert said in maisi("generate", "-o", tmp_path / "a.nii.gz", *asked).stderr
    (warning,) = json.loads((tmp_path / "a.json").read_text())["warnings"]
    assert f"maisi: warning: {warning}".startswith(said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_cancels_on_the_server_and_leaves_nothing(
    server: Any, tmp_path: Path, number: signal.Signals
) -> None:
    terminal, theirs = os.openpty()  # a terminal, so that the bar tells how far it is
    out = tmp_path / "a.nii.gz"
    command = [sys.executable, "-m", "maisi_client", "generate", "-o", out, "--url", server.grpc]
    command += ["--size", "96,96,96", "--spacing", "2", "--steps", "1000"]
    env = {**os.environ, "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=env)
    os.close(theirs)
    shown = b""
    while b"sampler" not in shown:
        shown += os.read(terminal, 4096)

    process.send_signal(number)
    told = time.monotonic()
    assert process.wait(timeout=5) == 130
    assert time.monotonic() - told < 2
    rest = os.read(terminal, 65536)
    os.close(terminal)
    assert process.stdout is not None and process.stdout.read() == b""
    assert rest.endswith(b"maisi: cancelled\r\n")
    assert list(tmp_path.iterdir()) == []
    with Client(server.grpc) as client:  # the sampler takes new work, a thousand steps are not done
        client.generate(size=[32, 32, 32], steps=1)
    assert time.monotonic() - told < 20


def test_a_picture_that_cannot_be_drawn_loses_no_volume(
    server: Any, mask: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise InvalidRequest("it cannot be drawn")

    monkeypatch.setattr("maisi_client._preview.preview", fail)
    out, words = tmp_path / "out.nii.gz", ["--steps", "1", "--seed", "1", "--url", server.grpc]
    picture = str(tmp_path / "p.png")
    with pytest.raises(InvalidRequest, match="cannot be drawn"):
        generate(
            parser().parse_args(
                ["generate", str(mask), "-o", str(out), "--preview", picture, *words]
            )
        )
    assert Volume.load(out).image.shape == (32, 32, 32)
