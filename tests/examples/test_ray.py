"""Pairs made on a Ray cluster: none is lost when one of two servers is killed and comes back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from maisi_client import Client, write_plan
from maisi_client import Row as PlanRow

from tests.conftest import ROOT, Server
from tests.server.metrics import numbers

ROWS = 40
SIDE = 32


def mask() -> nib.Nifti1Image:
    labels = np.zeros((SIDE, SIDE, SIDE), np.uint8)
    labels[4:28, 4:30, 6:30], labels[10:16, 8:20, 10:20] = 22, 227
    return nib.Nifti1Image(labels, np.diag([2.0, 2, 2, 1]))


def made(server: Server) -> float:
    """Return how many requests a server has answered with a volume."""
    return numbers(server.metrics).get('maisi_requests_total{outcome="done",variant="mini"}', 0)


def steps_of_a_row(url: str, seconds_of_a_start: float) -> int:
    """Return steps with which 40 volumes take 6 times as long as a server's start."""
    with Client(url) as client:
        client.generate(mask(), steps=2)
        start = time.monotonic()
        client.generate(mask(), steps=20)
        seconds_of_a_step = (time.monotonic() - start) / 20
    return min(1000, max(4, round(6 * seconds_of_a_start / ROWS / seconds_of_a_step)))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_server_is_killed_and_back_and_no_pair_is_lost(
    start_server: Callable[..., Server], tmp_path: Path, eventually: Callable[..., None]
) -> None:
    import pyarrow.parquet

    start = time.monotonic()
    one = start_server()
    steps = steps_of_a_row(one.grpc, time.monotonic() - start)
    other = start_server()
    nib.save(mask(), tmp_path / "mask.nii.gz")
    arguments: dict[str, Any] = {"mask": str(tmp_path / "mask.nii.gz"), "steps": steps}
    rows = [PlanRow(f"pair-{n:02}", {**arguments, "seed": 100 + n}) for n in range(ROWS)]
    write_plan(rows, tmp_path / "plan.csv")

    words = [sys.executable, "examples/ray/pairs_to_parquet.py", str(tmp_path / "plan.csv")]
    words += ["--to", str(tmp_path / "pairs"), f"--url={one.grpc},{other.grpc}"]
    temporary = tempfile.mkdtemp(prefix="ray-")  # the paths of Ray's sockets must be short
    env = {**os.environ, "RAY_TMPDIR": temporary, "RAY_USAGE_STATS_ENABLED": "0"}
    log = (tmp_path / "ray.log").open("w+")
    script = subprocess.Popen(
        [*words, "--rows-per-file=5"], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=log
    )
    try:
        eventually(lambda: script.poll() is not None or (made(one) > 4 and made(other) > 2), 600)
        one.die()
        before = made(other)
        eventually(lambda: script.poll() is not None or made(other) > before, 600)
        back = start_server(None, f"--grpc-port={one.grpc.rpartition(':')[2]}")
        assert back.grpc == one.grpc
        output, _ = script.communicate(timeout=900)
    finally:
        script.kill()
        script.wait()
        shutil.rmtree(temporary, ignore_errors=True)
    log.seek(0)
    assert script.returncode == 0, log.read()[-4000:]
    assert made(back) > 0  # there was work left for it

    counted = json.loads(output.splitlines()[-1])
    assert (counted["rows"], counted["written"]) == (ROWS, ROWS)
    assert counted["missing"] == counted["doubled"] == [] and counted["files"] == ROWS // 5
    table = pyarrow.parquet.read_table(tmp_path / "pairs").to_pylist()
    pairs = {pair["name"]: pair for pair in table}
    assert pairs.keys() == {row.name for row in rows} and len(table) == ROWS
    assert {pair["seed"] for pair in table} == set(range(100, 100 + ROWS))
    assert {pair["group"] for pair in table} == {"mask"}
    digests = {json.loads(pair["report"])["sha256"]["image"] for pair in table}
    assert len(digests) == ROWS
    with Client(other.grpc) as client:
        for row in (rows[0], rows[ROWS // 2], rows[-1]):
            image = nib.Nifti1Image.from_bytes(pairs[row.name]["image"])
            volume = client.generate(**row.arguments)
            assert np.array_equal(image.get_fdata(), volume.image.get_fdata())
            assert (image.affine == volume.image.affine).all()
            label = nib.Nifti1Image.from_bytes(pairs[row.name]["label"])
            assert np.array_equal(label.get_fdata(), mask().get_fdata())
