"""The command line's failures."""

from __future__ import annotations

import pytest

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
