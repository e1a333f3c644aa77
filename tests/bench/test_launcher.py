"""A server that does not start is a sentence, and leaves no process."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from bench.launcher import Server, ServerFailed


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match=r"^The server did not start: .*nothing"):
        Server(tmp_path / "nothing", tmp_path / "log")
    children = psutil.Process().children()
    assert not any(str(tmp_path) in " ".join(child.cmdline()) for child in children)


def test_one_that_ends_without_a_sentence_names_its_log(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match=rf"its log is {tmp_path}/log\.$"):
        Server(tmp_path, tmp_path / "log", prefix=["false"])
