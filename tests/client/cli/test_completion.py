"""The shell completes commands, options and files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from maisi_client._cli import main

DRIVE = '_shtab_maisi; printf "%s\\n" "${COMPREPLY[@]}"'


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "maisi"
    command = [sys.executable, "-m", "maisi_client", "completion", "bash"]
    path.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return path


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("gen", {"generate"}),
        ("generate --gui", {"--guidance", "--guidance-interval"}),
        ("generate ma", {"mask.nii.gz", "masks"}),
        ("generate mask.nii.gz -o out/", {"out/a.nii.gz"}),
        ("dataset plan.csv --to ma", {"masks"}),
        ("preview mask.nii.gz --j", {"--json"}),
        ("completion z", {"zsh"}),
        ("generate --steps ", set()),
    ],
)
def test_bash_completes(script: Path, tmp_path: Path, line: str, completions: set[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "mask.nii.gz").touch()
    (tmp_path / "out" / "a.nii.gz").touch()
    words = line.split(" ")
    typed = " ".join(f"'{word}'" for word in ("maisi", *words))
    drive = f"source {script}; COMP_WORDS=({typed}); COMP_CWORD={len(words)}; {DRIVE}"
    result = subprocess.run(
        ["bash", "--norc", "-c", drive], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert set(result.stdout.split()) == completions
    assert result.stderr == ""


def test_bash_has_a_completion_of_the_command(script: Path) -> None:
    ask = f"source {script}; complete -p maisi"
    result = subprocess.run(
        ["bash", "--norc", "-c", ask], capture_output=True, text=True, check=True
    )
    assert "-F _shtab_maisi maisi" in result.stdout


def test_zsh_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef maisi\n")


def test_without_shtab_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert "pip install 'maisi-client[completion]'" in capsys.readouterr().err
