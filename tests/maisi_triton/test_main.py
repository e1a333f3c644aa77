"""The command line of `maisi-triton`."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from maisi_triton import __main__ as command
from maisi_triton import environment, folders
from server import host
from tests.conftest import ROOT

PYTHON = Path("/environment/bin/python")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the list of commands that the process becomes; each ends it with status 0."""
    commands: list[list[str]] = []

    def become(program: object, words: list[str]) -> None:
        commands.append(words)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", become)
    monkeypatch.setattr(environment, "serve", lambda: PYTHON)
    monkeypatch.setattr(environment, "export", lambda words: PYTHON)
    for name in ("MAISI_PROGRAM", "MAISI_MODELS", "MAISI_EXPORT_CACHE"):
        monkeypatch.setenv(name, "")  # for the test to undo what the command sets
        monkeypatch.delenv(name)
    return commands


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    monkeypatch.setattr(sys, "argv", ["maisi-triton", *words])
    try:
        return command.main()
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(
    ("words", "package"), [(["serve", "--host", "::1"], "server"), (["export", "mini"], "export")]
)
def test_a_command_runs_its_package(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch, words: list[str], package: str
) -> None:
    assert run(monkeypatch, *words) == 0
    launch = str(folders.PACKAGE / "launch.py")
    assert started == [[str(PYTHON), launch, str(ROOT), package, *words[1:]]]
    assert os.environ["MAISI_PROGRAM"] == f"maisi-triton {words[0]}"
    assert "MAISI_MODELS" not in os.environ  # those of the checkout


def test_an_installation_keeps_models_outside_of_itself(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(folders, "INSTALLED", True)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert run(monkeypatch, "serve") == 0
    repository = tmp_path / "maisi-triton" / "model_repository"
    assert os.environ["MAISI_MODELS"] == str(repository)
    assert (repository / "mini" / "config.pbtxt").is_file()
    monkeypatch.setenv("MAISI_MODELS", "/models")
    assert run(monkeypatch, "serve") == 0
    assert os.environ["MAISI_MODELS"] == "/models"


def test_a_home_that_cannot_be_written_costs_no_server(
    started: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(folders, "INSTALLED", True)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    assert run(monkeypatch, "serve") == 0
    assert "MAISI_MODELS" not in os.environ
    assert "mini is served from the package" in capsys.readouterr().err


def test_an_unfit_computer_gets_one_sentence_before_anything_is_installed(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host, "unfit", lambda _: "It is too old.")
    assert run(monkeypatch, "serve") == 2
    assert started == []
    assert capsys.readouterr().err == "maisi-triton: It is too old.\n"


def test_a_failed_installation_is_one_sentence(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(words: list[str]) -> Path:
        raise environment.CannotInstall("No network.")

    monkeypatch.setattr(environment, "export", fail)
    assert run(monkeypatch, "export", "mini") == 1
    assert capsys.readouterr().err == "maisi-triton: No network.\n"


@pytest.mark.parametrize(("words", "status"), [([], 2), (["srve"], 2), (["--help"], 0)])
def test_usage(monkeypatch: pytest.MonkeyPatch, words: list[str], status: int) -> None:
    assert run(monkeypatch, *words) == status


def test_help_needs_no_installation() -> None:
    words = [sys.executable, "-m", "maisi_triton", "serve", "--help"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "XDG_CACHE_HOME": "/dev/null"}
    process = subprocess.run(words, env=environ, capture_output=True, text=True)
    assert process.returncode == 0
    assert process.stdout.startswith("usage: maisi-triton serve ")
    assert "--grpc-port" in process.stdout


def test_the_version_is_that_of_the_distribution(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"maisi-triton {importlib.metadata.version('maisi-triton')}\n"
