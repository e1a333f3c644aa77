"""The command with unusual streams, folders or files: it works, or prints one sentence."""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import maisi_client
import nibabel as nib
import numpy as np
import pytest
from maisi_client import Client, InvalidRequest, Row, make_plan, read_plan, write_plan
from maisi_client._request import prepare

MAISI = shlex.join([sys.executable, "-m", "maisi_client"])
LATIN = os.fsdecode(b"m\xfcller.nii.gz")  # not UTF-8, as of an old disk


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line with `maisi` in it, which finds no server."""
    return subprocess.run(
        ["bash", "-c", line.replace("maisi ", f"{MAISI} ")],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=100,
        env={**os.environ, "MAISI_URL": "127.0.0.1:9"},
    )


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Describe more masks than a pipe holds."""
    entry = {"dim": [64] * 3, "spacing": 1, "label_list": [1]}
    entries = [{**entry, "pseudo_label_filename": f"{n}.nii.gz"} for n in range(20_000)]
    (tmp_path / "db.json").write_text(json.dumps(entries))
    return tmp_path


def test_a_reader_that_closes_the_output_early(database: Path) -> None:
    short = "maisi find one.json ."  # which is written as the command ends
    entries = json.loads((database / "db.json").read_text())
    (database / "one.json").write_text(json.dumps(entries[:1]))
    for command in (short, f"{short} --json"):
        result = shell(f"set -o pipefail; {command} | true", database)
        assert (result.returncode, result.stderr) == (0, "")
    for command in ("maisi find db.json .", "maisi find db.json . --json"):
        result = shell(f"set -o pipefail; {command} | head -c 5", database)
        assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == '["0.n'


def test_a_reader_that_closes_the_messages_early(database: Path) -> None:
    for command, code in (
        ("maisi find one.json .", 1),  # no such file
        ("maisi find db.json .", 0),
        ("maisi generate -o a.nii --size 32,32,32 --timeout 1", 1),
    ):
        result = shell(f"{command} 2>&1 >out | true; exit ${{PIPESTATUS[0]}}", database)
        assert (result.returncode, result.stdout, result.stderr) == (code, "", ""), command
        assert bool((database / "out").read_bytes()) == (code == 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_an_output_that_is_full(database: Path) -> None:
    for command in ("find db.json .", "find db.json . --json", "plan p.csv -n 1"):
        result = shell(f"maisi {command} >/dev/full", database)
        assert result.returncode == 1
        assert result.stderr.startswith("maisi: ") and result.stderr.count("\n") == 1
        assert "No space left on device" in result.stderr


def test_streams_that_are_closed(database: Path) -> None:
    for line, code in (
        ("maisi find db.json . >&-", 0),
        ("maisi find nowhere.json . 2>&-", 1),
        ("maisi generate -o a.nii --size 32,32,32 --timeout 1 2>&-", 1),
        ("maisi generate -o a.nii --size 32,32,32 --timeout 1 >&- 2>&-", 1),
    ):
        result = shell(line, database)
        assert (result.returncode, result.stdout, result.stderr) == (code, "", "")


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    for command in ("generate -o a.nii --size 32,32,32", "plan p.csv -n 1"):
        result = shell(f"mkdir gone; cd gone; rmdir ../gone; maisi {command}", tmp_path)
        assert result.returncode == 1
        sentence = "maisi: the current folder does not exist any more"
        assert result.stderr.splitlines()[-1] == sentence  # the shell may print an error, too


def test_a_pipe_is_no_mask_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    result = shell("maisi check pipe.nii", tmp_path)
    assert result.stderr == "maisi: mask 'pipe.nii' does not exist or is not a file\n"


@pytest.mark.slow
def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "m.nii.gz")
    (tmp_path / "m.nii.gz").rename(tmp_path / LATIN)
    rows = make_plan(2, masks=[tmp_path / LATIN])
    with pytest.raises(InvalidRequest, match=r"cannot contain the name of a file in line 2"):
        write_plan(rows, tmp_path / "plan.csv")
    assert not (tmp_path / "plan.csv").exists()
    assert read_plan(write_plan(rows, tmp_path / "plan.jsonl")) == rows

    for encoding in ("utf-8", "ascii", "latin-1"):
        before = f"export PYTHONIOENCODING={encoding}; "
        result = shell(f"{before} maisi plan p.csv -n 1 --masks m*", tmp_path)
        assert result.returncode == 1 and result.stderr.count("\n") == 1
        assert result.stderr.startswith("maisi: the plan 'p.csv' cannot contain")
        result = shell(f"{before} maisi check m* --timeout 1", tmp_path)
        assert result.stderr == "maisi: no server answers at 127.0.0.1:9: Connection refused\n"
        result = shell(f"{before} maisi check no{LATIN}", tmp_path)
        assert result.returncode == 1 and "Traceback" not in result.stderr
        result = shell(f"{before} maisi generate -o a.nii --variant {LATIN}", tmp_path)
        assert result.stderr.startswith("maisi: variant is 'm") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_masks_that_are_found_have_their_own_names(tmp_path: Path, encoding: str) -> None:
    entry = {"dim": [64] * 3, "spacing": 1, "label_list": [1]}
    entries = [{**entry, "pseudo_label_filename": name} for name in ("ü.nii.gz", LATIN)]
    (tmp_path / "db.json").write_text(json.dumps(entries))
    for name in ("ü.nii.gz", LATIN):
        (tmp_path / name).touch()
    result = shell(f"export PYTHONIOENCODING={encoding}; maisi find db.json . | xargs ls", tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 2


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 1e300, 1e18, -math.inf])
@pytest.mark.parametrize("name", ["timeout", "idle_timeout"])
def test_seconds_that_no_clock_has(name: str, seconds: float) -> None:
    limits: dict[str, Any] = {name: seconds}
    for client in (Client, maisi_client.aio.Client):
        with pytest.raises(InvalidRequest, match=f"^{name} is .*; at most 1000000000 seconds"):
            client("127.0.0.1:9", **limits)


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_their_type() -> None:
    mask = nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4))
    for spacing in (5e-324, 1e-300):
        with pytest.raises(InvalidRequest, match="more than can be sent"):
            prepare(mask, {"spacing": spacing})
    arguments = {"guidance": 1e300, "strength": -1e300, "guidance_interval": [0, 1e300]}
    inputs = prepare(None, {**arguments, "spacing": 1e300}).inputs
    assert all(
        np.isinf(inputs[name]).any() for name in (*arguments, "spacing")
    )  # which servers refuse
    for name in arguments:
        with pytest.raises(InvalidRequest, match=f"{name} is "):
            prepare(None, {name: 10**400})


def test_a_variant_that_is_no_name() -> None:
    for variant in (7, "\ud800", "a\0b", ["mini"]):
        with pytest.raises(InvalidRequest, match=r"variant is .*; a name is expected"):
            prepare(None, {"variant": variant})


def test_what_a_plan_holds_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "plan.csv").write_text("old")
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        write_plan([Row("one", {"preset": "\udc00"})], tmp_path / "plan.csv")
    assert (tmp_path / "plan.csv").read_text() == "old"
