"""Definitions that C-STORE and STOW-RS share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .._counted import counted

SECONDS = 120.0  # time limit for one answer of a receiver


@dataclass(frozen=True)
class Destination:
    """A receiver of DICOM: its name, without credentials, and a function that sends files to it.

    `send` raises `InvalidRequest` if the receiver refuses the sender or its files,
    `ServerUnavailable` if it does not answer or the connection is lost, and `ServerError` if it
    fails. The sentences of these errors end with the number of files that it has stored.
    """

    name: str
    send: Callable[[Sequence[Path]], None]


def stored(number: int, files: Sequence[Path]) -> str:
    """Return the end of an error's sentence: the number of `files` that were stored."""
    verb = "was" if len(files) == 1 else "were"
    return f"{number} of {counted(len(files), 'object')} {verb} stored"
