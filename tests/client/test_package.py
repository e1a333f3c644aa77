"""The names of the package, each imported when it is used."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import subprocess
import sys
from pathlib import Path

import maisi_client
import pytest


def test_what_type_checkers_read_is_what_there_is() -> None:
    tree = ast.parse(Path(inspect.getfile(maisi_client)).read_text())
    imported = {
        alias.asname: node.module or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    }
    assert imported == maisi_client._MODULES
    for name in maisi_client.__all__:
        assert getattr(maisi_client, name).__name__.removeprefix("maisi_client.") == name
    assert set(maisi_client.__all__) < set(dir(maisi_client))


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'maisi_client' has no attribute 'clint'"):
        _ = maisi_client.clint  # type: ignore[attr-defined]
    with pytest.raises(ImportError):
        exec("from maisi_client import clint")


def test_the_version_is_that_of_the_distribution() -> None:
    version = importlib.metadata.version("maisi-client")
    assert maisi_client.__version__ == version
    command = [sys.executable, "-m", "maisi_client", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"maisi {version}\n"


def test_importing_it_imports_no_library() -> None:
    script = "import sys, maisi_client; sys.exit(bool({'numpy', 'grpc'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
