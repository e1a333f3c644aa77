"""Run a program of a package by its name: `python -m bench NAME`."""

from __future__ import annotations

import ast
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path


def run(package: str, names: tuple[str, ...]) -> int:
    """Run the program that the command line names, or list all names; return the exit status."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in names:
        del sys.argv[1]
        runpy.run_module(f"{package}.{name}", run_name="__main__")
        return 0
    listed = "\n".join(f"  {name:12}{_summary(package, name)}" for name in names)
    if name in ("-h", "--help"):
        print(f"usage: scripts/{package} NAME [options]; NAME --help lists the options\n\n{listed}")
        return 0
    print(f"scripts/{package}: {name} is not one of {', '.join(names)}", file=sys.stderr)
    return 2


def _summary(package: str, name: str) -> str:
    spec = find_spec(f"{package}.{name}")
    assert spec is not None and spec.origin is not None
    doc = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
    return doc.partition("\n")[0]
