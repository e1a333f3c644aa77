"""The locks of shards: what may run at the same time in one folder, and what may not."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from maisi_client import Client, InvalidRequest, Row, make_dataset
from maisi_client._datasets.locks import shard_lock

from tests.client.timed_server import timed_server

HOLDER = """
import pathlib, sys
from maisi_client._datasets.locks import shard_lock
with shard_lock(pathlib.Path(sys.argv[1]), 0, 1):
    print(flush=True)
    sys.stdin.read()
"""


def test_all_shards_of_one_number_hold_their_locks(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for index in range(3):
            stack.enter_context(shard_lock(tmp_path, index, 3))
        with pytest.raises(InvalidRequest, match="another process makes this shard of "):
            stack.enter_context(shard_lock(tmp_path, 1, 3))


def test_shards_of_another_number_are_refused(tmp_path: Path) -> None:
    with shard_lock(tmp_path, 1, 2):
        for index, count in ((0, 1), (2, 3), (1, 22)):
            sentence = rf"^the shard is {index}/{count}, .* makes a shard of 2 in .*; .* expected$"
            with pytest.raises(InvalidRequest, match=sentence), shard_lock(tmp_path, index, count):
                pass
        with shard_lock(tmp_path, 0, 2):
            pass
    for count in (1, 3, 2):  # the files of earlier runs do not matter
        with shard_lock(tmp_path, 0, count):
            pass


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        with pytest.raises(InvalidRequest, match="makes a shard of 1"), shard_lock(tmp_path, 0, 2):
            pass
        process.kill()
        process.wait()
        with shard_lock(tmp_path, 0, 2):
            pass


def test_datasets_of_different_shards_exclude_each_other(tmp_path: Path) -> None:
    rows = [Row(f"row-{n}", {"size": [4, 4, 4], "seed": n}) for n in range(4)]
    with timed_server(lambda size: 0.05) as fake, Client(fake.url) as client:
        first = make_dataset(rows, tmp_path, client)
        next(first)
        with pytest.raises(InvalidRequest, match="the shard is 0/2, "):
            next(make_dataset(rows, tmp_path, client, shard=(0, 2)))
        first.close()
        assert len(list(make_dataset(rows, tmp_path, client, shard=(0, 2)))) == 2
