"""Lines that the server writes for its operator."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO


def log(message: str) -> None:
    """Write one line to standard error, where Triton writes its own lines."""
    write_line(sys.stderr, f"serve: {message}")


def write_line(stream: TextIO | None, line: str) -> None:
    """Write a line to a standard stream; one that is closed or that nobody reads is no error."""
    if stream is not None:
        with suppress(OSError):  # past Python's buffer, which would keep what cannot be written
            os.write(stream.fileno(), f"{line}\n".encode(errors="backslashreplace"))
