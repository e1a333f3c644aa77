"""The command `maisi`."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Sequence

from .._errors import MaisiError
from .parser import parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    _open_streams()
    # A polite kill leaves as Ctrl-C does: the server is told, and no draft file stays.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    as_json = False
    try:
        try:
            args = parser().parse_args(argv)
            as_json = args.json
            args.run(args)
            code = 0
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one has nothing left to end
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            code = _fail(as_json, "Cancelled", MaisiError("cancelled", "cancelled"), 130)
        except BrokenPipeError:
            raise
        except (MaisiError, OSError) as error:
            nameless = isinstance(error, FileNotFoundError) and error.filename is None
            message = "the current folder does not exist any more" if nameless else str(error)
            failure = error if isinstance(error, MaisiError) else MaisiError(message)
            code = _fail(as_json, type(error).__name__, failure, 1)
        sys.stdout.flush()  # here, where an error of it is still told
    except BrokenPipeError:  # who read our output has seen enough, as `| head` does
        _discard(sys.stdout)
        return 0
    except OSError as error:  # such as that of a full disk
        _discard(sys.stdout)
        return _fail(False, "", MaisiError(f"the output cannot be written: {error}"), 1)
    return code


def _open_streams() -> None:
    """Let both streams be there, and take any text: a name may not fit their encoding."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who called, as by `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _discard(stream: object) -> None:
    """Have what a stream still holds go nowhere, for Python to write it at its end."""
    if isinstance(stream, io.TextIOWrapper):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fail(as_json: bool, name: str, error: MaisiError, code: int) -> int:
    if as_json:
        parts = {"type": name, "message": str(error), "kind": error.kind}
        print(json.dumps({"error": {**parts, "retry_after": error.retry_after}}))
    print(f"maisi: {' '.join(str(error).split())}", file=sys.stderr)
    return code
