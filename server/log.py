"""Write lines for the operator of the server."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO


def log(message: str) -> None:
    """Write one line to standard error, where Triton also writes its lines."""
    write_line(sys.stderr, f"serve: {message}")


def write_line(stream: TextIO | None, line: str) -> None:
    """Write a line to a standard stream; ignore a stream that is closed or not read."""
    if stream is not None:
        with suppress(OSError):  # without Python's buffer, which would keep text after an error
            os.write(stream.fileno(), f"{line}\n".encode(errors="backslashreplace"))
