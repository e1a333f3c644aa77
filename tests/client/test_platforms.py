"""The client on systems without POSIX."""

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
names = [module.name for module in pkgutil.walk_packages(maisi_client.__path__, "maisi_client.")]
for name in names:
    if name.split(".")[-1] not in ("__main__", "torch"):
        __import__(name)
print(*names)
"""


def test_every_module_imports_without_posix() -> None:
    result = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    names = {"_datasets.dataset", "_transport.shared", "_transport.dev_shm", "aio", "_cli.entry"}
    assert {f"maisi_client.{name}" for name in names} <= set(result.stdout.split())


def test_a_dataset_says_that_it_needs_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with (
        Client("127.0.0.1:9") as client,
        pytest.raises(MaisiError, match="a dataset needs file locks"),
    ):
        list(make_dataset([Row("one", {"size": [32, 32, 32]})], tmp_path, client))
