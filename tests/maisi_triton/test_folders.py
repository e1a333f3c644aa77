"""Where the command keeps what it makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from maisi_triton import folders
from tests.conftest import ROOT


def test_a_checkout_runs_its_own_folders() -> None:
    assert folders.TREE == ROOT
    assert not folders.INSTALLED


def test_folders_are_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert folders.cache() == tmp_path / "elsewhere" / "maisi-triton"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, as XDG demands
    assert folders.cache() == tmp_path / ".cache" / "maisi-triton"


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the folder of an installation with the models `mini` and `mini.flow`."""
    for name in ("mini", "mini.flow"):
        (tmp_path / "tree" / "model_repository" / name).mkdir(parents=True)
    monkeypatch.setattr(folders, "TREE", tmp_path / "tree")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "tree"


def test_models_of_the_package_are_linked_and_those_of_the_user_stay(tree: Path) -> None:
    repository = folders.models()
    (repository / "mini.flow").unlink()
    for name in ("mini.flow", "rflow-ct"):
        (repository / name).mkdir()
    assert folders.models() == repository
    assert (repository / "mini").readlink() == tree / "model_repository" / "mini"
    assert not (repository / "mini.flow").is_symlink()
    assert {path.name for path in repository.iterdir()} == {"mini", "mini.flow", "rflow-ct"}


def test_links_follow_the_installation(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = folders.models()
    other = tree.with_name("other")
    (other / "model_repository" / "mini").mkdir(parents=True)
    (tree / "model_repository" / "mini.flow").rmdir()
    monkeypatch.setattr(folders, "TREE", other)
    folders.models()
    assert (repository / "mini").readlink() == other / "model_repository" / "mini"
    assert [path.name for path in repository.iterdir()] == ["mini"]
