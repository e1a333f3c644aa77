"""The client on systems that lack what POSIX has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from maisi_client import Client, MaisiError, Row, make_dataset

# What POSIX alone has: https://docs.python.org/3/library/unix.html.
IMPORT_ALL = """
import os, pkgutil, sys
for name in ("fcntl", "grp", "pwd", "posix_ipc", "readline", "resource", "termios"):
    sys.modules[name] = None
for name in ("O_DIRECTORY", "O_NOFOLLOW", "fork", "geteuid", "getuid", "posix_fallocate"):
    vars(os).pop(name, None)
import maisi_client
names = [module.name for module in pkgutil.iter_modules(maisi_client.__path__)]
for name in names:
    if name not in ("__main__", "torch"):
        __import__(f"maisi_client.{name}")
print(*names)
"""


def test_every_module_imports_without_posix() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert {"_dataset", "_shared", "_near", "aio", "_cli"} <= set(done.stdout.split())


def test_a_dataset_says_that_it_needs_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with (
        Client("127.0.0.1:9") as client,
        pytest.raises(MaisiError, match="a dataset needs file locks"),
    ):
        list(make_dataset([Row("one", {"size": [32, 32, 32]})], tmp_path, client))
