"""The command `maisi`."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence

from .._errors import MaisiError
from .parser import parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    _open_streams()
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    # SIGTERM ends like Ctrl-C: the request is cancelled on the server, and no draft file remains.
    _handle_signals(interrupt)
    as_json = False
    try:
        try:
            args = parser().parse_args(argv)
            as_json = args.json
            args.run(args)
            code = 0
        except BaseException as error:
            # After a signal any error is a cancellation: `queue` and `threading` can raise
            # RuntimeError in place of KeyboardInterrupt.
            if interrupted:
                _handle_signals(signal.SIG_IGN)  # a second signal must not interrupt the report
                code = _fail(as_json, "Cancelled", MaisiError("cancelled", "cancelled"), 130)
            elif isinstance(error, MaisiError | OSError) and not isinstance(error, BrokenPipeError):
                code = _fail(as_json, type(error).__name__, _failure(error), 1)
            else:
                raise
        sys.stdout.flush()  # here, where its error is still reported
    except BrokenPipeError:  # the reader of our output has closed it, as `| head` does
        _discard(sys.stdout)
        return 0
    except OSError as error:  # such as a full disk
        _discard(sys.stdout)
        return _fail(False, "", MaisiError(f"the output cannot be written: {error}"), 1)
    return code


def _handle_signals(handler: Callable[..., object] | signal.Handlers) -> None:
    """Set the handler of SIGINT and SIGTERM, unless the caller of the command ignores them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


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


def _failure(error: MaisiError | OSError) -> MaisiError:
    if isinstance(error, MaisiError):
        return error
    nameless = isinstance(error, FileNotFoundError) and error.filename is None
    return MaisiError("the current folder does not exist any more" if nameless else str(error))


def _fail(as_json: bool, name: str, error: MaisiError, code: int) -> int:
    if as_json:
        parts = {"type": name, "message": str(error), "kind": error.kind}
        print(json.dumps({"error": {**parts, "retry_after": error.retry_after}}))
    print(f"maisi: {' '.join(str(error).split())}", file=sys.stderr)
    return code
