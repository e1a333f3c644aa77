"""The command, as a shell sees it: exit code, stdout, stderr, files."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from maisi_client import InvalidRequest, Volume
from maisi_client._cli.generate import generate
from maisi_client._cli.parser import parser

from tests.client.command import NOBODY, maisi, maisi_process
from tests.client.server_metrics import cancelled_requests
from tests.conftest import PATIENCE


def stderr_lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines of stderr but for warnings, which small volumes have."""
    lines = result.stderr.splitlines()
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
    result = maisi(*args)
    assert result.returncode == 2
    assert "usage: maisi" in result.stderr
    assert result.stdout == ""


def test_help_tells_the_exit_codes() -> None:
    assert "130 cancelled" in maisi("generate", "--help").stdout


@pytest.mark.parametrize("command", [("info",), ("generate", "-o", "a.nii.gz")])
def test_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr("maisi_client._transport.pool._REST_SECONDS", 0.01)
    result = maisi(*command, MAISI_URL=NOBODY)
    assert result.returncode == 1
    assert result.stderr == f"maisi: no server answers at {NOBODY}: Connection refused\n"
    assert result.stdout == ""


def test_errors_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maisi_client._transport.pool._REST_SECONDS", 0.01)
    result = maisi("info", "--json", "--url", NOBODY)
    assert result.returncode == 1
    error = json.loads(result.stdout)["error"]
    assert error["type"] == "ServerUnavailable"
    assert (error["kind"], error["retry_after"]) == ("unavailable", None)
    assert result.stderr == f"maisi: {error['message']}\n"


@pytest.mark.parametrize(
    ("args", "sentence"),
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = maisi("generate", *args, MAISI_URL=NOBODY)
    assert result.returncode == 1
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_truncated_mask(mask: Path, tmp_path: Path) -> None:
    mask.write_bytes(mask.read_bytes()[:-20])
    result = maisi("generate", mask, "-o", tmp_path / "a.nii", "--json")
    assert result.returncode == 1
    assert json.loads(result.stdout)["error"]["type"] == "MaskError"
    assert list(tmp_path.iterdir()) == [mask]


def test_preview_of_files(mask: Path, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    result = maisi("preview", mask, mask, "-o", tmp_path / "p.png")
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_preview_of_a_volume_alone(mask: Path, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    grid = np.arange(-100, 32**3 - 100, dtype=np.int16).reshape(32, 32, 32)
    volume = tmp_path / "volume.nii"
    nib.save(nib.Nifti1Image(grid, np.eye(4)), volume)
    pictures = []
    for words in (("--volume", volume), (mask, volume), (mask, "--volume", volume), (mask,)):
        result = maisi("preview", *words, "-o", tmp_path / "p.png")
        assert (result.returncode, result.stderr) == (0, "")
        pictures.append((tmp_path / "p.png").read_bytes())
    assert pictures[1] == pictures[2] and len(set(pictures)) == 3
    result = maisi("preview", volume, "-o", tmp_path / "p.png")
    assert result.returncode == 1
    assert result.stderr.endswith("; a volume without a mask is given as --volume\n")


def test_generate_writes_volume_report_and_picture(server: Any, mask: Path, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    out, picture = tmp_path / "t2.nii.gz", tmp_path / "t2.png"
    words = ("--modality", "mri_t2", "--seed", "3", "--steps", "1", "--url", server.grpc)
    result = maisi_process("generate", mask, "-o", out, "--preview", picture, *words)
    assert (result.returncode, result.stdout, stderr_lines(result)) == (
        0,
        "",
        [],
    )  # quiet in a pipe
    assert {p.name for p in tmp_path.iterdir()} == {"mask.nii.gz", "t2.nii.gz", "t2.json", "t2.png"}
    report = json.loads((tmp_path / "t2.json").read_text())
    assert (report["seed"], report["modality"], report["synthetic"]) == (3, "mri_t2", True)
    assert nib.load(out).shape == (32, 32, 32)
    assert picture.read_bytes().startswith(b"\x89PNG")

    second = maisi("generate", mask, "-o", tmp_path / "again.nii.gz", *words, "--json")
    line = json.loads(second.stdout)
    assert line["report"]["seed"] == 3 and line["output"].endswith("again.nii.gz")
    assert (tmp_path / "again.nii.gz").read_bytes() == out.read_bytes()


def test_generate_without_a_mask(server: Any, tmp_path: Path) -> None:
    out = tmp_path / "image.nii"
    words = ("--size", "32,40,32", "--spacing", "2", "--steps", "1", "--guidance", "2")
    words += ("--guidance-interval", "0.2,0.8", "--solver", "heun")
    result = maisi("generate", "-o", out, *words, MAISI_URL=server.grpc)
    assert (result.returncode, stderr_lines(result)) == (0, [])
    assert nib.load(out).shape == (32, 40, 32)
    assert json.loads((tmp_path / "image.json").read_text())["guidance_interval"] == [0.2, 0.8]


def test_check_sends_what_generate_takes(server: Any, mask: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.nii"
    nib.save(nib.Nifti1Image(np.full((32, 32, 32), 500, np.int16), np.eye(4)), source)
    words = ("--source", source, "--strength", "0.4", "--solver", "heun", "--seed", "9")
    words += ("--guidance", "2", "--guidance-interval", "0.2,0.8", "--redraws", "1", "--augment")
    words += ("--organs", "brain", "--steps", "7", "--url", server.grpc)
    report = json.loads(maisi("check", mask, "--json", *words).stdout)
    expected = {"strength": 0.4, "solver": "heun", "seed": 9, "redraws": 1, "augmented": True}
    expected |= {"guidance_interval": [0.2, 0.8], "organs": [22], "steps": 7, "sourced": True}
    assert report.items() >= expected.items()
    refused = maisi("check", "--anatomy", "liver=0.5", "--url", server.grpc)
    assert refused.returncode == 1 and refused.stderr.startswith("maisi: anatomy: ")
    refused = maisi("check", mask, "--top-region", "chest", "--url", server.grpc)
    assert refused.returncode == 1 and refused.stderr.startswith("maisi: top_region: ")


def test_a_refusal_of_the_server(server: Any, mask: Path, tmp_path: Path) -> None:
    result = maisi("generate", mask, "-o", tmp_path / "a.nii", "--steps", "0", "--url", server.grpc)
    assert result.returncode == 1
    assert result.stderr.startswith("maisi: steps: 0 ") and result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [mask]


def test_info(server: Any) -> None:
    result = maisi("info", "--url", server.grpc)
    assert result.returncode == 0
    assert "mri_flair" in result.stdout and "22 brain" in result.stdout
    machine = json.loads(maisi("info", "--json", "--url", server.grpc).stdout)
    assert machine["mini"]["modalities"]["mri_t1"] == 9
    assert machine["mini"]["labels"]["22"] == "brain"


def test_what_a_preset_is_bad_at_is_said_before_and_after(server: Any, tmp_path: Path) -> None:
    report = maisi("info", "--url", server.grpc).stdout
    assert "  caveat        brain-t1, brain-t2, brain-flair, brain-swi: without a mask" in report
    words = ("--preset", "brain-t2", "--steps", "1", "--url", server.grpc)
    sentence = "maisi: warning: preset brain-t2: without a mask mini makes heads"
    assert sentence in maisi("check", *words).stderr
    assert sentence in maisi("generate", "-o", tmp_path / "a.nii.gz", *words).stderr
    (warning,) = json.loads((tmp_path / "a.json").read_text())["warnings"]
    assert f"maisi: warning: {warning}".startswith(sentence)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_cancels_on_the_server_and_leaves_nothing(
    server: Any, tmp_path: Path, number: signal.Signals, eventually: Callable[..., None]
) -> None:
    before = cancelled_requests(server)
    terminal, writer = os.openpty()  # a terminal, so that the bar is drawn
    out = tmp_path / "a.nii.gz"
    command = [sys.executable, "-m", "maisi_client", "generate", "-o", out, "--url", server.grpc]
    command += ["--size", "96,96,96", "--spacing", "2", "--steps", "1000"]
    env = {**os.environ, "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writer, env=env)
    os.close(writer)
    output = b""
    while b"sampler" not in output:
        output += os.read(terminal, 4096)

    process.send_signal(number)
    rest = b""
    with contextlib.suppress(OSError):  # Linux's end of a terminal
        while part := os.read(terminal, 65536):
            rest += part
    os.close(terminal)
    assert process.wait(PATIENCE) == 130
    assert process.stdout is not None and process.stdout.read() == b""
    assert rest.endswith(b"maisi: cancelled\r\n")
    assert list(tmp_path.iterdir()) == []
    eventually(lambda: cancelled_requests(server) >= before + 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("error", ["RuntimeError('release unlocked lock')", "OSError('lost')"])
def test_an_error_caused_by_a_signal_is_a_cancellation(number: signal.Signals, error: str) -> None:
    # `queue.Queue.get` can raise such a RuntimeError if a signal interrupts its bookkeeping.
    code = f"""
import signal, sys
from maisi_client import Client
from maisi_client._cli.entry import main

def info(self):
    try:
        signal.raise_signal({int(number)})
    except KeyboardInterrupt:
        raise {error}

Client.info = info
sys.exit(main(["info", "--json"]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 130
    assert result.stderr == "maisi: cancelled\n"
    assert json.loads(result.stdout)["error"]["kind"] == "cancelled"


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
