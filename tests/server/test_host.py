"""The sentences where the embedded server cannot run."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from backends.engines import openvino
from server.host import Host, has_bfloat16, inspect, is_wsl, refusal, unfit
from tests.conftest import PATIENCE, ROOT

GOOD = Host("Linux", "x86_64", ("glibc", "2.35"), (3, 10), True, "1.26.4", Path("/t"), 1 << 30)


def test_this_computer_can():
    assert refusal(inspect()) is None
    assert refusal(GOOD) is None
    assert refusal(dataclasses.replace(GOOD, libc=("glibc", "2.41"), python=(3, 12))) is None


@pytest.mark.parametrize(
    ("change", "problem", "instead"),
    [
        ({"system": "Darwin", "machine": "arm64"}, "Darwin on arm64", "nvcr.io"),
        ({"machine": "aarch64"}, "Linux on aarch64", "nvcr.io"),
        ({"libc": ("glibc", "2.31")}, "glibc 2.31", "nvcr.io"),
        ({"libc": ("", "")}, "another C library", "nvcr.io"),
        ({"python": (3, 9)}, "this is 3.9", "scripts/serve"),
        ({"python": (3, 13)}, "this is 3.13", "scripts/serve"),
        ({"libpython": False}, "libpython3.10.so.1.0", "apt install libpython3.10"),
        ({"shm_free": 5 << 20}, "5 MB free", "--shm-size=2g"),
    ],
)
def test_unfit_computers_are_told_why_and_what_instead(change, problem, instead):
    sentence = unfit(dataclasses.replace(GOOD, **change))
    assert problem in sentence
    assert instead in sentence


@pytest.mark.parametrize(
    ("change", "instead"),
    [
        ({"triton": None}, "nvidia-pytriton==0.7.0"),
        ({"numpy": "2.3.5"}, "pip install 'numpy<2'"),
    ],
)
def test_missing_installations_are_told(change, instead):
    assert instead in refusal(dataclasses.replace(GOOD, **change))


def test_an_interpreter_without_triton_gets_one_sentence():
    # -S leaves out the installed packages
    command = [sys._base_executable, "-S", "-m", "server"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.startswith("serve: Triton is not installed")
    assert len(process.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("release", "is_known"),
    [("5.15.167.4-microsoft-standard-WSL2\n", True), ("6.8.0-45-generic\n", False), (None, False)],
)
def test_the_kernel_of_wsl_is_known_by_its_name(tmp_path, release, is_known):
    if release is not None:
        (tmp_path / "osrelease").write_text(release)
    assert is_wsl(tmp_path / "osrelease") == is_known


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx512_bf16", True), ("amx_bf16 fpu", True), ("fpu avx512f avx512_vnni", False)],
)
def test_bfloat16_of_a_processor_is_among_its_flags(tmp_path, flags, expected):
    text = f"processor\t: 0\nvmx flags\t: amx_bf16\nflags\t\t: {flags}\nbugs\t\t: mds\n"
    (tmp_path / "cpuinfo").write_text(text)
    assert has_bfloat16(tmp_path / "cpuinfo") == expected


def test_openvino_agrees_on_bfloat16():
    assert has_bfloat16() == openvino.has_bfloat16()
