"""Environments are made once, whole or again, and from what this version names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from maisi_triton import environment
from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]


class Runs:
    """Stands for `subprocess`: keeps the commands, makes environments, and fails on demand."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.fails = ""  # the module that fails

    def run(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if command[2] == "venv":
            python = Path(command[-1], "bin", "python")
            python.parent.mkdir(parents=True, exist_ok=True)
            python.touch()
        return subprocess.CompletedProcess(command, int(command[2] == self.fails))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runs:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(environment, "has_gpu", lambda: False)
    runs = Runs()
    monkeypatch.setattr(environment, "subprocess", runs)
    return runs


def test_an_environment_is_made_once(runs: Runs) -> None:
    python = environment.serve()
    assert environment.serve() == python
    assert [command[2] for command in runs.commands] == ["venv", "pip"]
    assert {"--no-deps", "--require-hashes"} < set(runs.commands[1])
    assert runs.commands[1][0] == str(python)


def test_a_failed_installation_is_tried_again(runs: Runs) -> None:
    runs.fails = "pip"
    with pytest.raises(environment.CannotInstall, match="pip could not install"):
        environment.serve()
    runs.fails = ""
    environment.serve()
    assert [command[2] for command in runs.commands] == ["venv", "pip"] * 2
    assert "--clear" in runs.commands[2]


def test_an_environment_without_the_module_venv_is_one_sentence(runs: Runs) -> None:
    runs.fails = "venv"
    with pytest.raises(environment.CannotInstall, match=r"package python3\.\d+-venv\.$"):
        environment.serve()


def test_a_cache_that_cannot_be_written_is_one_sentence(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(environment.CannotInstall, match="file/maisi-triton: Not a directory"):
        environment.serve()


def test_another_lock_is_another_environment(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = environment.serve()
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "serve.txt").write_text("another\n")
    monkeypatch.setattr(environment, "LOCKS", tmp_path / "locks")
    assert environment.serve() != python


def test_a_gpu_has_its_own_lock(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "has_gpu", lambda: True)
    assert environment.serve().parents[1].name.startswith("gpu-")
    assert runs.commands[1][-1].endswith("locks/gpu.txt")


def test_requirements_are_those_of_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    requires = [
        "einops>=0.8; extra == 'export'",
        "onnxruntime==1.32.0; (python_version >= '3.11') and extra == 'serve'",
        "polygraphy==0.53.6; extra == 'rtx'",
    ]
    monkeypatch.setattr(environment.importlib.metadata, "requires", lambda name: requires)
    found = environment.requirements("export", "serve")
    assert found == ["einops>=0.8", "onnxruntime==1.32.0 ; (python_version >= '3.11')"]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["build", "mini"], "export"),
        (["build", "mini", "--target", "tensorrt-rtx"], "export-rtx"),
        (["build", "mini", "--target=tensorrt-rtx"], "export-rtx"),
    ],
)
def test_an_export_has_what_its_target_needs(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, words: list[str], name: str
) -> None:
    monkeypatch.setattr(environment, "TORCH_FOR_CPU", "http://127.0.0.1:9")
    monkeypatch.setattr(environment, "requirements", lambda *extras: list(extras))
    folder = environment.export(words).parents[1].name
    assert re.fullmatch(rf"{name}-3\.\d+-[0-9a-f]{{12}}", folder)
    extras = runs.commands[1][runs.commands[1].index("serve") :]
    assert extras == ["serve", "export", *(["rtx"] if name == "export-rtx" else [])]


@pytest.mark.parametrize("name", ["serve", "gpu"])
def test_a_lock_has_what_the_extra_names_with_digests(name: str) -> None:
    text = (environment.LOCKS / f"{name}.txt").read_text()
    locked = {
        (package.lower(), version)
        for package, version in re.findall(r"^([\w.-]+)==([\w.]+) ", text, re.MULTILINE)
    }
    assert text.count("==") and all(
        "--hash=sha256:" in block for block in re.split(r"\n(?=[a-z])", text)[1:]
    )
    wanted = [*EXTRAS["engines"], *(line for line in EXTRAS[name] if "[engines]" not in line)]
    for line in wanted:
        package = re.match(r"[\w-]+", line)
        pin = re.search(r"==([\w.]+)", line.partition(";")[0])
        assert package is not None
        if pin:
            assert (package[0], pin[1]) in locked, line
        else:
            assert package[0] in {one for one, _ in locked}, line
    assert ("nvidia-pytriton", "0.7.0") in locked
