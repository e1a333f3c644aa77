"""Where the command keeps what it makes."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from maisi_triton import folders
from tests.conftest import PATIENCE, ROOT


def test_a_checkout_runs_its_own_folders() -> None:
    assert folders.TREE == ROOT
    assert not folders.INSTALLED


def test_folders_are_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert folders.cache() == tmp_path / "elsewhere" / "maisi-triton"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, as XDG demands
    assert folders.cache() == tmp_path / ".cache" / "maisi-triton"


Install = Callable[..., Path]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Return a function that makes the installation `name` with `models` the one that runs.

    It returns the folder of these models.
    """
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    def install(name: str, *models: str) -> Path:
        tree = tmp_path / name / "site-packages" / "maisi_triton" / "tree"
        for model in models:
            (tree / "model_repository" / model).mkdir(parents=True)
            (tree / "model_repository" / model / "config.pbtxt").touch()
        monkeypatch.setattr(folders, "TREE", tree)
        return tree / "model_repository"

    return install


def content(repository: Path) -> set[str]:
    return {path.name for path in repository.iterdir()} - {".lock"}


def test_models_of_the_package_are_linked_and_those_of_the_user_stay(install: Install) -> None:
    package = install("one", "mini", "mini.flow")
    repository = folders.models()
    (repository / "mini.flow").unlink()
    for name in ("mini.flow", "rflow-ct"):
        (repository / name).mkdir()
    assert folders.models() == repository
    assert (repository / "mini").readlink() == package / "mini"
    assert not (repository / "mini.flow").is_symlink()
    assert content(repository) == {"mini", "mini.flow", "rflow-ct"}


def test_links_follow_the_installation(install: Install) -> None:
    install("one", "mini", "mini.flow")
    folders.models()
    shutil.rmtree(folders.TREE)
    package = install("two", "mini")
    repository = folders.models()
    assert (repository / "mini").readlink() == package / "mini"
    assert content(repository) == {"mini"}


def test_links_of_the_user_stay(install: Install, tmp_path: Path) -> None:
    package = install("one", "mini", "mini.flow", "mini.decoder")
    repository = folders.models()
    targets = {
        "mini": tmp_path / "own" / "mini",  # in place of the package's model
        "mini.flow": package / "mini.decoder",  # another model of the package
        "rflow-ct": tmp_path / "disk" / "rflow-ct",  # of a disk that is not mounted
    }
    targets["mini"].mkdir(parents=True)
    for name, target in targets.items():
        (repository / name).unlink(missing_ok=True)
        (repository / name).symlink_to(target)
    install("two", "mini", "mini.flow", "mini.decoder")
    assert folders.models() == repository
    assert {name: (repository / name).readlink() for name in targets} == targets


def test_a_link_that_is_right_is_not_touched(install: Install) -> None:
    install("one", "mini")
    link = folders.models() / "mini"
    before = link.lstat()
    folders.models()
    assert (link.lstat().st_ino, link.lstat().st_ctime_ns) == (before.st_ino, before.st_ctime_ns)


# Starts N times, each time as the other installation: ends with 1 if a start fails.
STARTS = """
import sys
from pathlib import Path
from maisi_triton import folders

sys.stdin.read()  # until all processes have started
for number in range(int(sys.argv[1])):
    folders.TREE = Path(sys.argv[2 + number % 2])
    folders.models()
"""


def test_starts_at_once_do_not_disturb_each_other_or_a_server(
    install: Install, tmp_path: Path
) -> None:
    names = ("mini", *(f"mini.{number}" for number in range(8)))
    trees = [install(name, *names).parent for name in ("one", "two")]
    repository = folders.models()
    words = [sys.executable, "-c", STARTS, "40", *map(str, trees)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    processes = [
        subprocess.Popen(
            words, env=environ, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    running = True
    while running:
        running = any(process.poll() is None for process in processes)
        # What a server reads: every model is there, and nothing else.
        assert [name for name in names if not (repository / name / "config.pbtxt").exists()] == []
        assert {path.parent.name for path in repository.glob("*/config.pbtxt")} <= set(names)
    for process in processes:
        assert (process.communicate()[1], process.returncode) == ("", 0)
    assert content(repository) == set(names)


def test_a_start_waits_for_an_export_that_replaces_models(install: Install) -> None:
    install("one", "mini")
    repository = folders.models()
    (repository / "mini").unlink()
    with (repository / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = threading.Thread(target=folders.models)
        other.start()
        other.join(0.5)
        assert other.is_alive() and content(repository) == set()
        (repository / "mini").mkdir()
    other.join(PATIENCE)
    assert not (repository / "mini").is_symlink()
