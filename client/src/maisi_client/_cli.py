"""The command `maisi`."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
from collections.abc import Sequence

from ._errors import MaisiError
from ._parser import parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a server's names may not fit the encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    # A polite kill leaves as Ctrl-C does: the server is told, and no draft file stays.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        args.run(args)
    except KeyboardInterrupt:
        return _fail(args, "Cancelled", "cancelled", 130)
    except BrokenPipeError:  # who read our output has seen enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (MaisiError, OSError) as error:
        return _fail(args, type(error).__name__, str(error), 1)
    return 0


def _fail(args: argparse.Namespace, kind: str, message: str, code: int) -> int:
    if args.json:
        print(json.dumps({"error": {"type": kind, "message": message}}))
    print(f"maisi: {message}", file=sys.stderr)
    return code
