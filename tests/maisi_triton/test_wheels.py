"""The files of a release: the same each time, and all that a fresh environment needs."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import nibabel as nib
import pytest

from docker import version
from tests.conftest import PATIENCE, ROOT
from tests.docker import tools

pytestmark = pytest.mark.timeout(3600)


def copy(folder: Path) -> Path:
    """Copy what git tracks, and NiiVue, to a folder."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    niivue = [str(path.relative_to(ROOT)) for path in ROOT.glob("client/src/*/*/static/niivue*")]
    assert niivue, "scripts/_niivue gets it"
    for name in (*listed.stdout.split("\0")[:-1], *niivue):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)  # not its time
        if os.access(ROOT / name, os.X_OK):
            (folder / name).chmod(0o755)
    return folder


def build(tree: Path, to: Path, umask: int) -> dict[str, str]:
    """Run scripts/dist of a copy without its environment; return name of file -> digest."""
    script = tree / "scripts" / "dist"
    script.write_text(script.read_text().replace("venv dev\n", ""))
    environ = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environ["PATH"]])
    process = subprocess.run(
        [script, to],
        env=environ,
        capture_output=True,
        text=True,
        umask=umask,
        timeout=tools.INSTALLATION,
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    assert process.stdout.count("PASSED") == 4 and process.stdout.count(".whl: OK") == 2
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in to.iterdir()}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """Return the folder with the files of a release, and their digests."""
    folder = tmp_path_factory.mktemp("release")
    yield folder / "dist", build(copy(folder / "tree"), folder / "dist", 0o022)
    shutil.rmtree(folder)


def without_python() -> dict[str, str]:
    """Return the environment without the variables of Python."""
    return {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}


def test_files_are_the_same_from_another_folder(
    release: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    digests = build(copy(tmp_path / "another tree"), tmp_path / "dist", 0o077)
    assert len(digests) == 4 and digests == release[1]


def test_a_fresh_environment_has_the_commands_of_both_wheels(
    release: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    binaries = tmp_path / "venv" / "bin"
    run = partial(tools.run, folder=tmp_path, env=without_python())
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    run(binaries / "pip", "install", "--quiet", *release[0].glob("*.whl"))
    assert run(binaries / "maisi", "--version") == f"maisi {version.current()}\n"
    assert "serve" in run(binaries / "maisi-triton", "--help")


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_wheels_export_serve_and_generate_without_a_checkout(
    python: str, release: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    interpreter = tools.interpreter(python)
    environ = without_python() | {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }

    run = partial(tools.run, folder=tmp_path, env=environ)
    run(interpreter, "-m", "venv", tmp_path / "venv")
    binaries = tmp_path / "venv" / "bin"
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    run(binaries / "pip", "install", "--quiet", *release[0].glob("*.whl"))
    assert not {"backends", "export", "server"} & {path.name for path in packages.iterdir()}

    # As modules of the current folder, they must not be taken for ours.
    (tmp_path / "server.py").write_text("raise SystemExit('another module')\n")
    (tmp_path / "export.py").write_text("raise SystemExit('another module')\n")
    tiny = ROOT / "tests" / "export" / "tiny" / "tiny.toml"
    weights = ("--checkpoints", tmp_path / "checkpoints", "--random-weights")
    run(binaries / "maisi-triton", "export", tiny, *weights)
    ports = [f"--{name}-port=0" for name in ("grpc", "http", "metrics", "status")]
    server = subprocess.Popen(
        [binaries / "maisi-triton", "serve", *ports],
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "log").open("w"),
        text=True,
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("ready: grpc="), (tmp_path / "log").read_text()[-3000:]
        assert "variants=mini,tiny" in line.split()
        url = line.split()[1].removeprefix("grpc=")
        mask = ROOT / "examples" / "brain_mask.nii.gz"
        words = ("--steps", 2, "--url", url)
        run(binaries / "maisi", "generate", mask, "-o", "t1.nii.gz", "--variant", "mini", *words)
        volume, label = nib.load(tmp_path / "t1.nii.gz"), nib.load(mask)
        assert volume.shape == label.shape and volume.get_fdata().std() > 10
        noise = ("-o", "noise.nii.gz", "--variant", "tiny", "--size", "32,32,32")
        run(binaries / "maisi", "generate", *noise, *words)
    finally:
        server.terminate()
        server.wait(PATIENCE)
        server.stdout.close()
    assert server.returncode == 0
