"""What the two ways to send DICOM have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .._counted import counted

SECONDS = 120.0  # that a receiver may take for one answer


@dataclass(frozen=True)
class Destination:
    """A receiver of DICOM: its name, without credentials, and what sends files to it.

    `send` raises `InvalidRequest` where the receiver refuses the sender or its files,
    `ServerUnavailable` where none answers or the connection is lost, and `ServerError` where it
    fails. Their sentences end with how many of the files it has stored.
    """

    name: str
    send: Callable[[Sequence[Path]], None]


def stored(number: int, files: Sequence[Path]) -> str:
    """Return how many of `files` were stored, for the end of an error's sentence."""
    verb = "was" if len(files) == 1 else "were"
    return f"{number} of {counted(len(files), 'object')} {verb} stored"
