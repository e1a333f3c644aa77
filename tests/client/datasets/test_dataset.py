"""Datasets: complete, also after kill -9; no volume is made twice; servers share the work."""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from maisi_client import (
    Client,
    InvalidRequest,
    ServerError,
    Volume,
    make_dataset,
    read_plan,
    reproduce,
)
from maisi_client._cli.dataset import dataset, pace
from maisi_client._cli.parser import parser

from tests.client.command import maisi
from tests.conftest import PATIENCE, Server

ROWS = 200
HEAD = "name,mask,size,modality,steps\n"


def plan(folder: Path, rows: int, more: str = "") -> Path:
    grid = np.zeros((32, 32, 32), np.uint8)
    grid[8:24, 8:24, 8:24] = 22
    nib.save(nib.Nifti1Image(grid, np.diag([2, 2, 2, 1])), folder / "mask.nii.gz")
    masked, alone = "mask.nii.gz,", ',"32,32,32"'
    lines = [f"row-{n},{masked if n % 2 else alone},mri_t2,1" for n in range(rows)]
    (folder / "plan.csv").write_text(HEAD + "\n".join(lines) + "\n" + more)
    return folder / "plan.csv"


def command(server: str, path: Path, to: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "maisi_client", "dataset", str(path), "--to", str(to)]
    return [*words, "--url", server, *more]


def test_a_plan_becomes_a_dataset(server: Server, tmp_path: Path) -> None:
    path, to = plan(tmp_path, 4), tmp_path / "set"
    with Client(server.grpc) as client:
        outcomes = list(make_dataset(read_plan(path), to, client))
        second = list(make_dataset(read_plan(path), to, client))
        assert {outcome.state for outcome in second} == {"kept"}
        row = read_plan(path)[1]
        volume = client.generate(**row.arguments)
    states = {outcome.name: outcome.state for outcome in outcomes}
    assert states.keys() == {f"row-{n}" for n in range(4)}
    assert set(states.values()) <= {"done", "unfaithful"}
    bases = {name: to if state == "done" else to / "unfaithful" for name, state in states.items()}
    for name, base in bases.items():
        report = json.loads((base / "reports" / f"{name}.json").read_text())
        assert (report["name"], report["synthetic"]) == (name, True)
        assert (base / "labels" / f"{name}.nii.gz").exists() == report["masked"]
        assert report["seed"] == report["request"]["seed"] == int(name[-1])
    image = nib.load(bases["row-1"] / "images" / "row-1.nii.gz")
    assert (image.get_fdata() == volume.image.get_fdata()).all()
    assert image.header["descrip"].item().startswith(b"SYNTHETIC mini mri_t2")
    labels = nib.load(bases["row-1"] / "labels" / "row-1.nii.gz")
    assert (labels.affine == image.affine).all() and labels.shape == image.shape


def test_a_row_that_fails_is_recorded_and_the_others_are_made(
    server: Server, tmp_path: Path
) -> None:
    path, to = plan(tmp_path, 2, 'bad,,"32,32,32",mri_t9,1\n'), tmp_path / "set"
    words = ("dataset", path, "--to", to, "--url", server.grpc)
    result = maisi(*words, "--json")
    assert result.returncode == 1
    summary = json.loads(result.stdout.splitlines()[0])
    assert summary["rows"] == 3 and summary["failed"] == 1
    assert summary["volumes_per_hour"] > 0 and 0 < summary["utilisation"] <= 1
    failed = json.loads((to / "failed" / "bad.json").read_text())
    assert failed["type"] == "InvalidRequest" and failed["kind"] == "invalid_request"
    assert "mri_t9" in failed["error"]
    assert "bad: modality: 'mri_t9'" in result.stderr and "Traceback" not in result.stderr
    path.write_text(path.read_text().replace("mri_t9", "mri_t1"))
    assert maisi(*words).returncode == 0
    assert not (to / "failed" / "bad.json").exists()


@pytest.mark.usefixtures("faithful")
def test_a_dataset_is_assessed_at_its_end(server: Server, tmp_path: Path) -> None:
    path, to = plan(tmp_path, 4), tmp_path / "set"
    run = maisi("dataset", path, "--to", to, "--url", server.grpc, "--assess", "--json")
    assert run.returncode == 0, run.stderr
    printed = json.loads(run.stdout)
    assert (printed["rows"], printed["done"]) == (4, 4)
    report = json.loads((to / "assessment/report.json").read_text())
    assert report["datasets"]["SYNTHETIC"]["volumes"] == 4
    assert report["bias"]["modalities"] == {"SYNTHETIC": {"mri_t2": 4}}
    cases = report["volumes"]["SYNTHETIC"].items()
    assert {name for name, case in cases if "borders" in case} == {"row-1", "row-3"}  # have masks
    assert report["verdicts"] == printed["verdicts"]
    section = (to / "README.md").read_text().split("## Assessment")[1]
    for verdict in printed["verdicts"]:
        assert f"| {verdict['question']} | {verdict['level']} |" in section


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_complete_and_the_same(
    start_server: Callable[..., Server], tmp_path: Path, eventually: Callable[..., None]
) -> None:
    """Clients die three times and a server once, which comes back; each volume is reproduced."""
    path, to = plan(tmp_path, ROWS), tmp_path / "set"
    servers = [start_server(), start_server()]
    urls = ",".join(server.grpc for server in servers)
    chance = random.Random(1)
    for _ in range(3):
        made = len(list(to.rglob("reports/*.json")))
        process = subprocess.Popen(command(urls, path, to))
        eventually(lambda made=made: len(list(to.rglob("reports/*.json"))) > made)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.0, 1.0))
        process.kill()
        process.wait()
    before = {report: report.stat().st_mtime_ns for report in to.rglob("reports/*.json")}
    assert 0 < len(before) < ROWS

    process = subprocess.Popen(command(urls, path, to))
    eventually(lambda: len(list(to.rglob("reports/*.json"))) > len(before))
    servers[0].die()
    port = servers[0].grpc.partition(":")[2]
    servers.append(start_server(None, f"--grpc-port={port}"))
    assert process.wait(2 * PATIENCE) == 0

    assert {report: report.stat().st_mtime_ns for report in before} == before  # none made twice
    assert not list((to / "failed").iterdir()) and not list(to.rglob("*/.????????.*"))
    reports = list(to.rglob("reports/*.json"))
    assert {report.stem for report in reports} == {f"row-{n}" for n in range(ROWS)}
    assert len(list(to.rglob("images/*.nii.gz"))) == len(reports) == ROWS
    with Client(urls) as client, ThreadPoolExecutor(4) as pool:
        for report, volume in zip(
            reports, pool.map(lambda report: reproduce(client, report), reports), strict=True
        ):
            image = nib.load(report.parent.parent / "images" / f"{report.stem}.nii.gz")
            assert np.array_equal(image.dataobj, volume.image.dataobj)


def test_shards_share_a_plan_and_make_no_row_twice(server: Server, tmp_path: Path) -> None:
    path, to = plan(tmp_path, 6), tmp_path / "set"
    processes = [
        subprocess.Popen(command(server.grpc, path, to, f"--shard={n}/3", "--json"))
        for n in range(3)
    ]
    assert [process.wait(PATIENCE) for process in processes] == [0, 0, 0]
    assert len(list(to.rglob("reports/*.json"))) == 6
    rows = read_plan(path)
    with Client(server.grpc) as client:
        first = make_dataset(rows, tmp_path / "other", client, shard=(1, 2))
        next(first)
        with pytest.raises(InvalidRequest, match="another process makes this shard"):
            next(make_dataset(rows, tmp_path / "other", client, shard=(1, 2)))
        first.close()


def test_without_a_terminal_lines_say_how_far_it_is(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = threading.Event()
    generate = Client.generate

    def begin(*arguments: Any, **more: Any) -> str:
        begun.set()
        return pace(*arguments, **more)

    def after_a_line(*arguments: Any, **more: Any) -> Volume:
        begun.clear()
        assert begun.wait(PATIENCE)
        return generate(*arguments, **more)

    monkeypatch.setattr("maisi_client._cli.dataset.pace", begin)
    monkeypatch.setattr(Client, "generate", after_a_line)
    path = plan(tmp_path, 6, 'bad,,"32,32,32",mri_t9,1\n')
    words = ["dataset", str(path), "--to", str(tmp_path / "set"), "--url", server.grpc]
    with pytest.raises(ServerError, match="1 of 7 rows failed"):
        dataset(parser().parse_args([*words, "--jobs", "1"]), interval=0.05)
    lines = [line for line in capsys.readouterr().err.splitlines() if " rows" in line]
    ended = [int(line.split(" of ")[0]) for line in lines]
    assert len(lines) > 2 and ended == sorted(ended)
    speed = r"\d+ volumes/h, servers \d+% used"
    early = r"\d+ volumes/h(, servers \d+% used)?"
    between = re.compile(rf"\d of 7 rows(, 1 failed)?(, {early}(, \d+ (s|min) left)?)?")
    assert all(between.fullmatch(line) for line in lines[:-1])
    assert re.fullmatch(rf"7 of 7 rows, 1 failed, {speed}", lines[-1])
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize(
    ("states", "seconds", "text"),
    [
        ({}, 5.0, "0 of 10 rows"),
        ({"kept": 4}, 5.0, "4 of 10 rows"),
        (
            {"kept": 4, "done": 2, "failed": 1},
            30.0,
            "7 of 10 rows, 1 failed, 360 volumes/h, 30 s",
        ),
        ({"done": 9, "unfaithful": 0}, 0.9, "9 of 10 rows, 36000 volumes/h, 1 s left"),
        ({"done": 10}, 0.9, "10 of 10 rows, 40000 volumes/h"),
    ],
)
def test_the_pace_counts_what_was_made(states: dict[str, int], seconds: float, text: str) -> None:
    line = pace(Counter(states), 10, seconds)
    assert line == text or line == f"{text} left"
    used = pace(Counter(states), 10, seconds, utilisation=0.93)
    assert used == line.replace(" volumes/h", " volumes/h, servers 93% used")
