"""perf_analyzer is found or installed, or its absence explained."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench import perf_analyzer_install
from bench.perf_analyzer_install import Unavailable


def executable(path: Path, status: int) -> Path:
    path.write_text(f"#!/bin/sh\nexit {status}\n")
    path.chmod(0o755)
    return path


def test_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = executable(tmp_path / "perf_analyzer", 0)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert perf_analyzer_install.command() == [str(program)]


def test_one_that_does_not_start_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(tmp_path / "perf_analyzer", 1)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = perf_analyzer_install.cache()
    folder.mkdir(parents=True)
    executable(folder / "perf_analyzer", 0)
    assert perf_analyzer_install.command() == [str(folder / "perf_analyzer")]


def test_without_an_index_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(Unavailable, match=r"^Pip cannot download .*tritonserver:25.01-py3-sdk"):
        perf_analyzer_install.command()
    assert not perf_analyzer_install.cache().exists()


@pytest.mark.parametrize("uris", ["", "'http://mirror/ubuntu/dists/jammy/InRelease' name 0"])
def test_libraries_come_from_the_archives_of_this_system(
    uris: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but `--print-uris` succeeds here; the file of sources says what was tried."""
    executable(tmp_path / "dpkg-deb", 0)
    executable(tmp_path / "apt-get", 1).write_text(
        f'#!/bin/sh\n[ "$2" = --print-uris ] && echo "{uris}" || exit 1\n'
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(perf_analyzer_install, "_KEYRING", tmp_path / "dpkg-deb")
    with pytest.raises(
        Unavailable, match=r"^None of the archives in apt's configuration has Debian 13"
    ):
        perf_analyzer_install._add_libraries(tmp_path)
    source = tmp_path / "apt" / "sources.list"
    assert source.is_file() == bool(uris)
    if uris:
        assert "] http://mirror/ubuntu trixie main\n" in source.read_text()
