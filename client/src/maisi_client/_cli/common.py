"""Functions of several commands; modules that compute are imported late, to speed up help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .._client import Client


def client(args: argparse.Namespace) -> Client:
    """Return the client of the server that the options name."""
    from .._client import Client
    from .._transport.tls import Tls

    tls = Tls.of(args.ca, args.certificate, args.key)
    return Client(args.url, tls=tls, timeout=args.timeout)


def arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of a request on the command line."""
    from .._arguments import ARGUMENTS

    return {name: value for name, value in vars(args).items() if name in ARGUMENTS}


def files_read(args: argparse.Namespace) -> list[tuple[str, str | None]]:
    """Return the files that a request reads, each with its name for an error."""
    files = ("--ca", args.ca), ("--certificate", args.certificate), ("--key", args.key)
    return [("MASK", args.mask), *files]


def volume_files(output: str) -> list[tuple[str, Path | str]]:
    """Return the files that a volume may be saved to, each with its name for an error."""
    from .._volume import mask_path, report_path

    return [
        ("-o", output),
        ("the report of -o", report_path(output)),
        ("the mask of -o", mask_path(output)),
    ]


def warn(report: Mapping[str, Any]) -> None:
    """Print the warnings of a report."""
    for warning in report.get("warnings", ()):
        print(f"maisi: warning: {warning}", file=sys.stderr)
