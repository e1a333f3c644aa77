"""Pairs made on a Ray cluster: none is lost when a server is killed or a row is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import pytest
from maisi_client import Client, InvalidRequest, ServerError, Volume, save_dicom, write_plan
from maisi_client import Row as PlanRow

from tests.client.dicom.volumes import SHAPE, mask_of, volume
from tests.conftest import PATIENCE, ROOT, Server
from tests.server.metrics import numbers

ROWS = 40
STEPS = 40  # of a volume, which then takes longer than a look at the metrics
ATTEMPTS = 5  # to start Ray
SIDE = 32


def mask() -> nib.Nifti1Image:
    labels = np.zeros((SIDE, SIDE, SIDE), np.uint8)
    labels[4:28, 4:30, 6:30], labels[10:16, 8:20, 10:20] = 22, 227
    return nib.Nifti1Image(labels, np.diag([2.0, 2, 2, 1]))


def made(server: Server) -> float:
    """Return how many requests a server has answered with a volume."""
    return numbers(server.metrics).get('maisi_requests_total{outcome="done",variant="mini"}', 0)


def end_processes_of_ray(folder: str) -> None:
    """End what was started with `folder` as Ray's, and empty the folder."""
    while processes := processes_of_ray(folder):  # the last of them may start others
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, PATIENCE)
    shutil.rmtree(Path(folder, "ray"), ignore_errors=True)


def processes_of_ray(folder: str) -> list[psutil.Process]:
    """Return the living processes that were started with `folder` as Ray's."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("RAY_TMPDIR") == folder:
                found.append(process)
    return found


@contextmanager
def suspended(folder: str) -> Iterator[None]:
    """Suspend the processes that make volumes, within the context."""
    workers = [
        process
        for process in processes_of_ray(folder)
        if process.cmdline()[0].startswith("ray::MapWorker")
    ]
    assert workers
    for worker in workers:
        worker.suspend()
    try:
        yield
    finally:
        for worker in workers:
            worker.resume()


@pytest.fixture
def ray_environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Yield an environment in which Ray starts fast; its processes end with the fixture.

    Every process of Ray imports jsonschema, and that imports `rfc3987_syntax` if it is installed,
    which builds a grammar for seconds. jsonschema does without it.
    """
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "rfc3987_syntax.py").write_text("raise ImportError('slow')\n")
    paths = [str(modules), *filter(None, [os.environ.get("PYTHONPATH")])]
    # The paths of Ray's sockets must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        env = {key: v for key, v in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        env["PYTHONPATH"] = os.pathsep.join(paths)
        env["PYTHONPYCACHEPREFIX"] = str(tmp_path / "bytecode")
        env |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        modules_of_ray = "import ray.dashboard.agent, ray._private.runtime_env.agent.main, ray.data"
        subprocess.run([sys.executable, "-c", modules_of_ray], env=env, check=True)
        env["RAY_TMPDIR"] = folder
        yield env
        end_processes_of_ray(folder)


def begun(script: subprocess.Popen[bytes], log: Path) -> bool:
    """Return whether the example has started Ray or has ended."""
    return script.poll() is not None or "Started a local Ray" in log.read_text()


def start_script(
    words: list[str], env: dict[str, str], log: Path, wait: Callable[..., None]
) -> subprocess.Popen[bytes]:
    """Start the example, and again where Ray did not start, and return its process.

    Ray waits 15 s for each of its agents and 30 s for raylet, whatever the options
    (github.com/ray-project/ray/issues/65983). On busy cores that is too short at times.
    """
    for _ in range(ATTEMPTS):
        with log.open("w") as file:
            script = subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=file)
        wait(partial(begun, script, log), 300)
        if script.poll() is None or "timed out during startup" not in log.read_text():
            return script
        end_processes_of_ray(env["RAY_TMPDIR"])
    raise AssertionError(log.read_text()[-4000:])


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module of the example, without pauses between attempts."""
    path = ROOT / "examples" / "ray" / "pairs_to_parquet.py"
    spec = importlib.util.spec_from_file_location("pairs_to_parquet", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    return module


def pair_of(
    example: Any, answer: Volume | Exception, **arguments: Any
) -> tuple[dict[str, Any], int]:
    """Return the columns of a row, and how many requests were made, if all have this answer."""
    requests = []

    def generate(**arguments: Any) -> Volume:
        requests.append(arguments)
        if isinstance(answer, Exception):
            raise answer
        return answer

    maker = example.Generate("localhost:1")
    maker.client.generate = generate
    item = {"name": "a", "group": "g", "arguments": json.dumps({"seed": 7, **arguments})}
    return maker(item), len(requests)


@pytest.mark.parametrize(
    ("error", "attempts"), [(InvalidRequest("no such label"), 1), (ServerError("broken"), 20)]
)
def test_a_row_that_fails_is_a_row_with_an_error(
    example: Any, tmp_path: Path, error: Exception, attempts: int
) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    ct = volume(np.eye(4), seed=7)
    failed, requests = pair_of(example, error)
    pair, _ = pair_of(example, Volume(ct.image, ct.report, mask_of(ct.image)))
    assert requests == attempts and failed["error"] == str(error)
    tables = [pa.Table.from_pylist([one]).select(sorted(one)) for one in (pair, failed)]
    assert tables[0].schema == tables[1].schema  # the files make one table
    for name, table in zip("ab", tables, strict=True):
        pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet")
    counted = example.count([PlanRow("a", {}), PlanRow("b", {})], tmp_path)
    assert counted["failed"] == counted["doubled"] == ["a"] and counted["missing"] == ["b"]
    assert (counted["written"], counted["unfaithful"]) == (2, 0)


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_a_label_is_the_mask_of_the_request(example: Any, tmp_path: Path, kind: str) -> None:
    ct = volume(np.diag([-2.0, -2, 2, 1]))
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:5, 2:5, 3:9] = 230
    *_, file, _ = save_dicom(ct, tmp_path / "series", mask=nib.Nifti1Image(labels, ct.image.affine))
    if kind == "nifti":
        file = tmp_path / "mask.nii.gz"
        nib.save(nib.Nifti1Image(labels, ct.image.affine), file)
    pair, _ = pair_of(example, ct, mask=str(file))
    label = nib.Nifti1Image.from_bytes(pair["label"])
    there = nib.affines.apply_affine(label.affine, np.argwhere(label.get_fdata() == 230))
    expected = nib.affines.apply_affine(ct.image.affine, np.argwhere(labels == 230))
    assert pair["error"] == "" and label.get_data_dtype() == np.uint8
    assert sorted(map(tuple, there.round(3))) == sorted(map(tuple, expected))


def test_an_id_above_255_is_an_error(example: Any, tmp_path: Path) -> None:
    ct = volume(np.eye(4))
    labels = np.full(SHAPE, 256 + 22, np.int16)
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "mask.nii.gz")
    pair, _ = pair_of(example, ct, mask=str(tmp_path / "mask.nii.gz"))
    assert "holds 278 at voxel" in pair["error"] and pair["label"] == b""


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_server_is_killed_and_back_and_no_pair_is_lost(
    start_server: Callable[..., Server],
    tmp_path: Path,
    eventually: Callable[..., None],
    ray_environment: dict[str, str],
) -> None:
    import pyarrow.parquet

    one, other = start_server(), start_server()
    nib.save(mask(), tmp_path / "mask.nii.gz")
    arguments: dict[str, Any] = {"mask": str(tmp_path / "mask.nii.gz"), "steps": STEPS}
    rows = [PlanRow(f"pair-{n:02}", {**arguments, "seed": 100 + n}) for n in range(ROWS)]
    refused = PlanRow("refused", {**arguments, "seed": 1, "modality": "mri_t9"})
    write_plan([*rows[:7], refused, *rows[7:]], tmp_path / "plan.csv")

    words = [sys.executable, "examples/ray/pairs_to_parquet.py", str(tmp_path / "plan.csv")]
    words += ["--to", str(tmp_path / "pairs"), f"--url={one.grpc},{other.grpc}"]
    log = tmp_path / "ray.log"
    script = start_script([*words, "--rows-per-file=5"], ray_environment, log, eventually)
    try:
        eventually(lambda: script.poll() is not None or (made(one) > 2 and made(other) > 2), 600)
        assert script.poll() is None, log.read_text()[-4000:]
        one.die()
        before = made(other)
        eventually(lambda: made(other) > before + 1, 600)
        with suspended(ray_environment["RAY_TMPDIR"]):  # so that work is left for it
            back = start_server(None, f"--grpc-port={one.grpc.rpartition(':')[2]}")
        assert back.grpc == one.grpc
        output, _ = script.communicate(timeout=900)
    finally:
        script.kill()
        script.wait()
    assert script.returncode == 1, log.read_text()[-4000:]  # a row was refused
    eventually(lambda: not processes_of_ray(ray_environment["RAY_TMPDIR"]))
    assert made(back) > 0  # there was work left for it

    counted = json.loads(output.splitlines()[-1])
    assert (counted["rows"], counted["written"]) == (ROWS + 1, ROWS + 1)
    assert counted["missing"] == counted["doubled"] == [] and counted["files"] == ROWS // 5 + 1
    assert counted["failed"] == ["refused"]
    rows_of_files = pyarrow.parquet.read_table(tmp_path / "pairs").to_pylist()
    table = [row for row in rows_of_files if not row["error"]]
    (error,) = (row["error"] for row in rows_of_files if row["error"])
    assert "mri_t9" in error
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
