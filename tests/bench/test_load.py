"""The load test itself, with the real perf_analyzer and real servers."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import ROOT, load
from tests.conftest import PATIENCE, SHM

REGIONS = ("image", "report", "mask_0_0", "seed_0_0", "steps_0_0")  # named by perf_analyzer
SMALL = ["--size", "32,32,32", "--steps", "1", "--requests", "2", "--concurrency", "2"]


def adds_up(row: dict[str, Any]) -> bool:
    """Return whether the parts of a mean request are consistent."""
    stages = row["flow"] < 1.1 * row["sampler"] and row["vae_decoder"] < 1.1 * row["decoder"]
    # The stages of a stream are timed by a busy client.
    return (stages or row["endpoint"] == "stream") and abs(row["rest"]) < 0.25 * row["mean"]


def test_both_endpoints_of_a_running_server(
    program: list[str], server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(5):  # again where a pause of the machine is in one of the parts
        assert load.main([*SMALL, "--rate", "", "--url", server.grpc, "--out", str(tmp_path)]) == 0
        lines = capsys.readouterr().out.splitlines()
        rows = json.loads(lines[-1])["rows"]
        if all(map(adds_up, rows)):
            break
    assert [(row["endpoint"], row["transport"]) for row in rows] == [
        ("ensemble", "gRPC"),
        ("stream", "gRPC"),
    ]
    for row in rows:
        assert (row["load"], row["requests"], row["errors"]) == ("2 at once", 2, 0)
        assert 0 < row["p50"] <= row["p95"] <= row["p99"]
        # Means with means: of two requests one may take several times as long as the median.
        assert 0 < row["flow"] < row["mean"] > row["sampler"] > 0
        assert 0 < row["vae_decoder"] < row["mean"] > row["decoder"] > 0
        assert row["condition"] > 0 and row["mask_encoder"] > 0 and row["queue"] > 0
        assert adds_up(row), row
    with (tmp_path / "load.csv").open() as file:
        csv_rows = list(csv.DictReader(file))
    assert [float(row["p50"]) for row in csv_rows] == [row["p50"] for row in rows]
    assert sum(line.startswith("| ensemble | gRPC | 2 at once |") for line in lines) == 1
    assert any("Shared memory is measured only with" in line for line in lines)


def test_what_the_server_refuses_is_said(
    program: list[str], server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--url", server.grpc, "--out", str(tmp_path), "--size", "16,16,16"]
    assert load.main([*SMALL, *options]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("load: The ensemble by gRPC does not answer: ")
    assert last.endswith(
        "16 x 16 x 16 voxels is outside the allowed range, 32 x 32 x 32 to 256 x 256 x 256"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--size", "64,64"], "'64,64' is not three numbers X,Y,Z"),
        (["--concurrency", "1,x"], "'x' is not a whole number above 0"),
        (["--rate", "0"], "'0' is not a number above 0"),
    ],
)
def test_wrong_words_are_refused(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        load.main(words)
    assert exit_.value.code == 2
    assert sentence in capsys.readouterr().err


def run(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench.load", *SMALL, *words, "--out", str(folder)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},  # which identifies its processes
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left_behind(folder: Path) -> list[str]:
    """Return perf_analyzer's shared memory, and processes of the server."""
    regions = [name for name in REGIONS if (SHM / name).exists()]
    words = [" ".join(each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"])]
    return [*regions, *(line for line in words if str(folder) in line)]


@pytest.mark.slow
def test_all_endpoints_of_a_server_of_its_own(program: list[str], tmp_path: Path) -> None:
    process = run(tmp_path, "--rate", "0.5")
    out, err = process.communicate()
    assert process.returncode == 0, err
    rows = json.loads(out.splitlines()[-1])["rows"]
    assert [(row["endpoint"], row["transport"], row["load"]) for row in rows] == [
        (endpoint, transport, level)
        for endpoint in ("ensemble", "stream")
        for transport in ("gRPC", "shared memory")
        for level in ("2 at once", "0.5/s")
    ]
    assert all(row["errors"] == 0 and row["p50"] > 0 and row["sampler"] > 0 for row in rows)
    assert left_behind(tmp_path) == []


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind(
    program: list[str], tmp_path: Path, eventually: Callable[..., None]
) -> None:
    process = run(tmp_path, "--requests", "400", "--rate", "", "--seconds", "3")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("ensemble by shared memory"):
            break
    eventually(lambda: len(left_behind(tmp_path)) > len(REGIONS))  # perf_analyzer is at work
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and err.splitlines()[-1] == "load: cancelled"
    assert left_behind(tmp_path) == []
    csv_lines = (tmp_path / "load.csv").read_text().splitlines()
    assert len(csv_lines) == 2 and csv_lines[1].startswith("ensemble,gRPC,2 at once,400,1,")
