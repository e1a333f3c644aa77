"""The command `maisi`, in this process or in one of its own."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

from maisi_client._cli import main

from tests.conftest import PATIENCE

NOBODY = "127.0.0.1:9"  # the discard port: nothing listens


def maisi(*args: str | Path | int, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, which spares the imports."""
    words = list(map(str, args))
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with (
        mock.patch.dict(os.environ, env),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main(words)
        except SystemExit as error:
            code = int(error.code or 0)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def maisi_process(*args: str | Path | int, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "maisi_client", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, **env}
    )
