"""The names of the package, each imported when it is used."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import pydoc
import re
import shutil
import subprocess
import sys
import zipfile
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


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for path in Path(inspect.getfile(maisi_client)).parent.rglob("*.py")}
    assert len(folders) > 1  # setuptools takes those with an __init__.py
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_a_wheel_has_every_file_of_the_package(tmp_path: Path) -> None:
    package = Path(inspect.getfile(maisi_client)).parent
    source = tmp_path / "client"
    ignore = shutil.ignore_patterns("*.egg-info", "build")
    shutil.copytree(package.parents[1], source, ignore=ignore)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*build, "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("maisi_client/")}
    files = {path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert names == {path.relative_to(package.parent).as_posix() for path in files}
    assert "maisi_client/_studio/static/niivue.js" in names


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'maisi_client' has no attribute 'clint'"):
        _ = maisi_client.clint  # type: ignore[attr-defined]
    with pytest.raises(ImportError):
        exec("from maisi_client import clint")


def test_the_version_is_that_of_the_distribution() -> None:
    version = importlib.metadata.version("maisi-client")
    assert maisi_client.__version__ == version
    command = [sys.executable, "-m", "maisi_client", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == f"maisi {version}\n"


def test_importing_it_imports_no_library() -> None:
    script = "import sys, maisi_client; sys.exit(bool({'numpy', 'grpc'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize("client", [maisi_client.Client, maisi_client.aio.Client])
@pytest.mark.parametrize("method", ["generate", "stream", "check", "mask"])
def test_help_names_and_explains_every_keyword(client: type, method: str) -> None:
    table = maisi_client.MaskArguments if method == "mask" else maisi_client.Arguments
    signature = inspect.signature(getattr(client, method))
    keywords = {
        name: str(one.annotation)
        for name, one in signature.parameters.items()
        if one.kind is inspect.Parameter.KEYWORD_ONLY and name != "on_progress"
    }
    assert keywords.keys() == table.__annotations__.keys()
    assert keywords["size"] == "Sequence[int] | None"
    assert not any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())
    text = pydoc.plain(pydoc.render_doc(getattr(client, method)))
    assert "seed: 'int | None' = None" in text
    for name in table.__annotations__:
        assert re.search(rf"^ +(\w+, )?{name}(, \w+)?: \w", text, re.MULTILINE), name


def test_a_bound_method_shows_the_same() -> None:
    with maisi_client.Client("127.0.0.1:9") as client:
        names = list(inspect.signature(client.generate).parameters)
    assert names[:3] == ["mask", "on_progress", "variant"] and "redraws" in names
