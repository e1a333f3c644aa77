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
    """Run the command; return its exit code."""
    _open_streams()
    # SIGTERM ends like Ctrl-C: the request is cancelled on the server, and no draft file remains.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    as_json = False
    try:
        try:
            args = parser().parse_args(argv)
            as_json = args.json
            args.run(args)
            code = 0
        except KeyboardInterrupt:
            # A second signal must not interrupt the report.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            code = _fail(as_json, "Cancelled", MaisiError("cancelled", "cancelled"), 130)
        except BrokenPipeError:
            raise
        except (MaisiError, OSError) as error:
            nameless = isinstance(error, FileNotFoundError) and error.filename is None
            message = "the current folder does not exist any more" if nameless else str(error)
            failure = error if isinstance(error, MaisiError) else MaisiError(message)
            code = _fail(as_json, type(error).__name__, failure, 1)
        sys.stdout.flush()  # here, where its error is still reported
    except BrokenPipeError:  # the reader of our output has closed it, as `| head` does
        _discard(sys.stdout)
        return 0
    except OSError as error:  # such as a full disk
        _discard(sys.stdout)
        return _fail(False, "", MaisiError(f"the output cannot be written: {error}"), 1)
    return code


class _Messages(io.TextIOWrapper):
    """A stderr whose reader may be gone: messages are then lost, and the command continues."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            _discard(self)
            return len(text)


def _open_streams() -> None:
    """Open missing streams, and let stdout accept any text: a name may not fit its encoding."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, as by `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        out = sys.stderr
        sys.stderr = _Messages(out.buffer, out.encoding, out.errors, line_buffering=True)


def _discard(stream: object) -> None:
    """Redirect a stream to nothing, since Python flushes its buffer at exit."""
    if isinstance(stream, io.TextIOWrapper):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fail(as_json: bool, name: str, error: MaisiError, code: int) -> int:
    if as_json:
        parts = {"type": name, "message": str(error), "kind": error.kind}
        print(json.dumps({"error": {**parts, "retry_after": error.retry_after}}))
    print(f"maisi: {' '.join(str(error).split())}", file=sys.stderr)
    return code
