"""Paths with any characters: Triton's shell, interpreters and loader get only the server's own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from server.layout import model_names
from tests.server.tiny import infer, write_repository


def folders(server, parent="/tmp"):
    return list(Path(parent).glob(f"maisi-serve-{server.pid}-*"))


@pytest.mark.parametrize(
    "name",
    [
        'O\'Neil "Mül;ler"\n$HOME `id`\\',
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("My Data", 'O\'Neil "x"', "Mül;ler", "$HOME `id`\\", "a\nb")
        ),
    ],
)
def test_repository_and_tmpdir_may_have_any_name(start_server, tmp_path, monkeypatch, name):
    odd = tmp_path / name
    (odd / "tmp").mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(odd / "tmp"))
    server = start_server(write_repository(odd / "models"))
    assert infer(server.grpc, "slow_square", 0.3) == pytest.approx(0.3**4)
    assert len(folders(server)) == 1
    assert "serve: temporary files are in /tmp, not in " in server.log
    assert server.stop() == 0
    assert folders(server) == []


def test_a_usual_tmpdir_is_used(start_server, tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    server = start_server(write_repository(tmp_path / "models"))
    assert len(folders(server, tmp_path / "tmp")) == 1
    assert "temporary files" not in server.log
    assert server.stop() == 0
    assert folders(server, tmp_path / "tmp") == []


def test_the_interpreter_may_have_any_name(start_server, tmp_path, monkeypatch):
    """A virtual environment with the packages of this one, and a *.pth beyond ASCII."""
    odd = tmp_path / "Dätä's; $x"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", odd / "venv"], check=True)
    (packages,) = (odd / "venv" / "lib").glob("python*/site-packages")
    (odd / "library").mkdir()
    site_packages = [folder for folder in sys.path if folder.endswith("site-packages")]
    lines = "\n".join([*site_packages, str(odd / "library")])
    (packages / "ours.pth").write_text(lines, encoding="utf-8")
    monkeypatch.setattr(sys, "executable", str(odd / "venv" / "bin" / "python"))
    server = start_server(write_repository(odd / "models"))
    assert infer(server.grpc, "slow_square", 0.3) == pytest.approx(0.3**4)
    assert psutil.Process(server.pid).cmdline()[0].startswith(str(odd))


def test_a_model_whose_name_a_shell_changes_is_refused(tmp_path):
    repository = write_repository(tmp_path)
    for name in ("my model", "a;b", "ü"):
        (repository / name).mkdir()
        (repository / name / "config.pbtxt").touch()
        with pytest.raises(ValueError, match="name of a model") as refusal:
            model_names(repository, [])
        assert repr(name) in str(refusal.value)
        (repository / name / "config.pbtxt").unlink()
    assert "slow_square" in model_names(repository, [])


def test_folders_that_are_no_models_are_not_loaded_and_versions_exist(tmp_path):
    repository = write_repository(tmp_path)
    names = model_names(repository, [])
    (repository / ".mini-abcd").mkdir()  # of an export
    assert model_names(repository, []) == names == model_names(repository, [], 1)
    sentence = f"--version: {names[0]} has no version 7 in {repository}."
    with pytest.raises(ValueError, match=re.escape(sentence)):
        model_names(repository, [], 7)
