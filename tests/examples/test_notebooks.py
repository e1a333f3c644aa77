"""The notebooks run against a real server, from the first cell to the last."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Server

NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


def run(notebook: Path, server: Server) -> subprocess.CompletedProcess[str]:
    """Run all cells of a notebook by nbmake, beside what they write."""
    command = [sys.executable, "-m", "pytest", "--nbmake", "--nbmake-timeout=600", "--timeout=1200"]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", notebook.name],
        cwd=notebook.parent,
        env={**os.environ, "MAISI_URL": server.grpc},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """Return the folder of a copy of the notebooks, beside the mask that they read."""
    shutil.copy(ROOT / "examples" / "brain_mask.nii.gz", tmp_path)
    return Path(shutil.copytree(ROOT / "examples" / "notebooks", tmp_path / "notebooks"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_has_no_outputs(notebook: Path) -> None:
    for cell in json.loads(notebook.read_text())["cells"]:
        assert not cell.get("outputs") and not cell.get("execution_count")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", [path.name for path in NOTEBOOKS])
def test_every_cell_runs(name: str, examples: Path, server: Server) -> None:
    process = run(examples / name, server)
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-2000:]
    assert "1 passed" in process.stdout


@pytest.mark.slow
def test_a_cell_that_fails_is_noticed(examples: Path, server: Server) -> None:
    notebook = examples / NOTEBOOKS[0].name
    content = json.loads(notebook.read_text())
    cell = next(cell for cell in content["cells"] if cell["cell_type"] == "code")
    cell["source"] += ["\nclient.no_such_method()"]
    notebook.write_text(json.dumps(content))
    process = run(notebook, server)
    assert process.returncode == 1 and "no_such_method" in process.stdout
