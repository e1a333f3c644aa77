"""The parser of the command `maisi`."""

from __future__ import annotations

import argparse

import maisi_client

from . import (
    assess,
    check,
    colours,
    completion,
    dataset,
    dicom,
    find,
    generate,
    info,
    mask,
    plan,
    preview,
    reproduce,
    studio,
)
from .options import EXIT_CODES
from .usage import Parser

_COMMANDS = (
    *(generate, check, mask, dataset, assess, reproduce, plan, find, info, preview, colours, dicom),
    studio,
)


def parser() -> argparse.ArgumentParser:
    """Return the parser; `run` of the parsed arguments is the command's function."""
    root = Parser(
        prog="maisi",
        description="Synthetic CT and MR volumes from label masks, made by a MAISI Triton server."
        " `maisi COMMAND --help` prints the options of a command.",
        epilog=EXIT_CODES,
    )
    root.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    completion.add(commands, root)
    return root


class _Version(argparse.Action):
    """Print the version; `action="version"` would look it up for every command."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"maisi {maisi_client.__version__}")
        parser.exit()
