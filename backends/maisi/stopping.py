"""Refuse new requests while the server stops, and end running requests at a deadline.

The supervisor writes the deadline into the file that the environment names. It is in seconds of
`time.monotonic()`, a clock that all processes of a computer share and that changes of the system's
clock do not affect. A server without a supervisor has no such file.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from .errors import Stopping

ENV = "MAISI_STOPPING"


def deadline() -> float | None:
    """Return the deadline of running requests; None while the server is not stopping."""
    try:
        return float(Path(os.environ[ENV]).read_text())
    except (KeyError, OSError, ValueError):
        return None


def check_not_stopping() -> None:
    """Raise Stopping for a new request if the server is stopping."""
    if deadline() is not None:
        raise Stopping("the server is stopping and takes no new request: send it to another one")


def check_deadline(seed: int | None = None) -> None:
    """Raise Stopping after the deadline; call this between two steps."""
    end = deadline()
    if end is not None and time.monotonic() > end:
        hint = "" if seed is None else f", and seed {seed} makes the same volume"
        raise Stopping(
            "the server stopped before this volume was done: send the request to another one" + hint
        )
