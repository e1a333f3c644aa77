"""The arguments that the command line accepts, and its errors for others."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from maisi_client import Arguments, MaskArguments
from maisi_client._cli import main
from maisi_client._cli.parser import parser

HEAVY = ("numpy", "nibabel", "tritonclient", "grpc", "PIL")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("generate --stpes 3", "--stpes is not an option of maisi generate; did you mean --steps?"),
        ("generate --stpes=3 -o a.nii", "did you mean --steps?"),
        ("generate a.nii --ouput a.nii", "did you mean --output?"),  # and not: -o is missing
        ("generate -o a.nii --pre x", "--pre is not an option of maisi generate; did you mean "),
        ("generate -o a.nii -x", "-x is not an option of maisi generate\n"),
        ("genrate a.nii", "genrate is not a command of maisi; did you mean generate?"),
        ("gen", "did you mean generate?"),
        ("mask -o a.nii --steps 3", "--steps is not an option of maisi mask"),
        ("--jsn info", "--jsn is not an option of maisi\n"),
        ("--verson", "did you mean --version?"),
    ],
)
def test_what_is_misspelt_gets_the_nearest(
    capsys: pytest.CaptureFixture[str], line: str, sentence: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(line.split())
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert sentence in error and "usage: maisi" in error


def test_an_abbreviation_names_all_that_it_begins(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "-o", "a.nii", "--pre", "x"])
    assert "did you mean --preset or --preview?" in capsys.readouterr().err


def test_values_that_look_like_options_are_none() -> None:
    arguments = parser().parse_args(["generate", "-oa.nii", "--guidance", "-1", "--", "--mask"])
    assert (arguments.output, arguments.guidance, arguments.mask) == ("a.nii", -1, "--mask")


def test_files_may_stand_on_both_sides_of_an_option() -> None:
    arguments = parser().parse_args(["preview", "m.nii", "-o", "p.png", "a.nii", "b.nii"])
    assert (arguments.mask, arguments.volumes) == ("m.nii", ["a.nii", "b.nii"])


def options(command: str) -> set[str]:
    words = [command, *(["-o", "a.nii"] if command != "check" else [])]
    return set(vars(parser().parse_args(words)))


def test_commands_take_every_argument_of_their_request() -> None:
    of_programs = {"traceparent"}  # a command is not a part of a caller's trace
    arguments = set(Arguments.__annotations__) - of_programs
    assert arguments <= options("generate")
    assert arguments <= options("check")
    assert options("mask") & arguments == set(MaskArguments.__annotations__) - of_programs


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["generate", "--help"], ["completion", "bash"], ["gen"]]
)
def test_help_comes_without_what_computes(words: list[str]) -> None:
    script = f"""
import json, sys
from maisi_client._cli import main
try:
    main({words!r})
except SystemExit:
    pass
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout.splitlines()[-1]) == []
