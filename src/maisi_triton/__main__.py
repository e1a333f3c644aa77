"""The command line: `maisi-triton`."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import NoReturn

from maisi_triton import environment, folders

USAGE = """\
usage: maisi-triton serve [options]
       maisi-triton export fetch|build|verify VARIANT [options]

Serve NVIDIA's MAISI models with Triton, and turn checkpoints into models that the server can load.
The first start of each command installs what it needs into a folder of {cache}.
`maisi-triton serve --help` and `maisi-triton export --help` list the options.

options:
  -h, --help  show this help message and exit
  --version   show the version and exit
"""
_INTERRUPTED = 130  # exit status of a shell for a process that Ctrl-C ended


def main() -> int:
    """Run the command line; return its exit status, unless another program replaces it."""
    command, arguments = sys.argv[1:2], sys.argv[2:]
    if command == ["--version"]:
        print(f"maisi-triton {importlib.metadata.version('maisi-triton')}")
        return 0
    if command not in (["serve"], ["export"]):
        asked = command in (["-h"], ["--help"])
        print(USAGE.format(cache=folders.cache()), end="", file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    try:
        if command == ["serve"]:
            return _serve(arguments)
        _run(environment.export(arguments), "export", arguments)
    except environment.CannotInstall as error:
        environment.log(str(error))
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED


def _serve(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        _run(Path(sys.executable), "server", arguments)  # the help needs no environment
    sys.path.insert(0, str(folders.TREE))
    from server import host

    if problem := host.unfit(host.inspect()):
        environment.log(problem)
        return 2
    _run(environment.serve(), "server", arguments)


def _run(python: Path, package: str, arguments: list[str]) -> NoReturn:
    """Replace this process by an interpreter that runs a package of `folders.TREE`."""
    os.environ["MAISI_PROGRAM"] = " ".join(["maisi-triton", *sys.argv[1:2]])
    if folders.INSTALLED:
        os.environ.setdefault("MAISI_EXPORT_CACHE", str(folders.cache() / "export"))
        try:
            os.environ.setdefault("MAISI_MODELS", str(folders.models()))
        except OSError as error:
            environment.log(f"{error.filename}: {error.strerror}; mini is served from the package")
    launch = [str(python), str(folders.PACKAGE / "launch.py"), str(folders.TREE), package]
    os.execv(python, [*launch, *arguments])


if __name__ == "__main__":
    sys.exit(main())
