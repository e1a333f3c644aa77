"""Who may import whom, as CONTRIBUTING.md says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

# A package and those of ours that it may import beside itself.
MAY_IMPORT = {
    "backends/engines": set(),
    "backends/onnxruntime": {"backends.engines"},
    "backends/tensorrt_rtx": {"backends.engines"},
    "backends/slabs": {"backends.engines"},
    "backends/maisi": {"backends.engines"},
    "bench": {"backends", "export", "maisi_client", "training"},
    "client/src/maisi_client": set(),
    "docker": set(),
    "docs": {"bench", "docker", "export", "server"},
    "examples": {"maisi_client"},
    "export": {"backends"},
    "reliability": {"backends.engines", "bench", "export", "maisi_client", "server"},
    "server": set(),
    "src/maisi_triton": {"server"},
    "training": {"backends.maisi", "export"},
}
OURS = {package.split("/")[0] for package in MAY_IMPORT} - {"client", "src"}
OURS |= {"maisi_client", "maisi_triton"}
TORCH = {"torch", "monai"}
WITHOUT_TORCH = {"backends", "server", "docker", "src"}
CLIENT_TORCH = {"torch.py", "_assess/network.py", "_assess/use.py"}


def imported(path: Path) -> Iterator[str]:
    """Name the modules that a file imports, relative ones in full."""
    package = path.relative_to(ROOT).parent.parts
    package = package[package.index("src") + 1 :] if "src" in package else package
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_what_it_may(package: str) -> None:
    name = package.rpartition("src/")[2].replace("/", ".")
    allowed = {name, *MAY_IMPORT[package]}
    paths = list((ROOT / package).rglob("*.py"))
    assert paths
    for path in paths:
        for module in imported(path):
            top = module.partition(".")[0]
            if top in OURS:
                assert any(f"{module}.".startswith(f"{one}.") for one in allowed), (path, module)
            if top in TORCH:
                assert package.partition("/")[0] not in WITHOUT_TORCH, path
                part = path.relative_to(ROOT / package).as_posix()
                assert package != "client/src/maisi_client" or part in CLIENT_TORCH, path


@pytest.mark.parametrize("package", ["bench", "reliability", "examples"])
def test_only_what_the_client_publishes_is_imported(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        for module in imported(path):
            parts = module.split(".")
            private = [part for part in parts if part.startswith("_") and part != "__version__"]
            assert parts[0] != "maisi_client" or not private, (path, module)


def test_tests_import_helpers_and_not_each_other() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        for module in imported(path):
            parts = module.split(".")
            assert parts[0] != "tests" or not any(part.startswith("test_") for part in parts), path
