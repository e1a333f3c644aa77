"""The command line's failures."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from export import __main__ as command
from export.__main__ import main


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing"], "variant: 'nothing' is not one of"),
        (["build", "rflow-ct", "--checkpoints", "/nowhere"], "checkpoint: /nowhere/models/"),
        (["build", "mini", "--max-size", "8,8,8"], "max-size: 8,8,8 must be multiples of 16"),
        (["verify", "mini", "--checkpoints", "/nowhere"], "checkpoint: /nowhere/mini/"),
        (["build", "mini", "--cache", "/dev/null/graphs"], "Not a directory: '/dev/null/graphs"),
    ],
)
def test_failures_are_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("export: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_a_signal_ends_a_build_and_removes_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(args: object) -> int:
        with tempfile.TemporaryDirectory(dir=tmp_path):
            os.kill(os.getpid(), signal.SIGTERM)
        return 0

    monkeypatch.setattr(command, "_build", build)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            main(["build", "mini"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143 and not list(tmp_path.iterdir())
