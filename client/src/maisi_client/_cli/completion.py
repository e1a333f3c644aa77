"""`maisi completion`: print a script that completes the words of the command in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from .._errors import InvalidRequest
from .options import EXIT_CODES, Commands

SHELLS = ("bash", "zsh")
_FOLDERS = ("DIR", "FOLDER")  # metavars of folders
_FILES = ("CSV", "JSON", "MASK", "OUT", "PATH", "PEM", "PLAN", "PNG", "REPORT", "SOURCE", "VOLUME")


def add(commands: Commands, root: argparse.ArgumentParser) -> None:
    """Add the command, which completes all words of the parser `root`."""
    parser = commands.add_parser(
        "completion",
        help="let the shell complete commands, options and files",
        description="Print a script for the shell. bash: `maisi completion bash >"
        " ~/.local/share/bash-completion/completions/maisi`. zsh: write it to a file `_maisi` in"
        " a folder of $fpath. New shells then complete.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell")
    parser.set_defaults(run=lambda args: print(script(root, args.shell)), json=False)


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the completion script of a parser for `bash` or `zsh`, by shtab.

    Arguments whose metavar names a file or a folder complete paths. Raises `InvalidRequest` if
    shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise InvalidRequest(
            "completion needs shtab, which is not installed: pip install 'maisi-client[completion]'"
        ) from None
    for action in _actions(parser):
        if action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield every argument of a parser and of its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action
