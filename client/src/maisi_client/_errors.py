"""The exceptions of this package."""

from __future__ import annotations

import unicodedata

# Kinds of errors after which a retry, or another server, may succeed (docs/reference/errors.md).
_TRANSIENT = frozenset(
    {"overloaded", "out_of_memory", "stopping", "engine_failed", "internal", "unavailable"}
)

_JOINERS = "\u200c\u200d"  # zero width non-joiner and joiner


class MaisiError(Exception):
    """Base of every error this package raises; `str(error)` is one sentence for a person.

    `kind` is one word for a program, listed in docs/reference/errors.md. `retry_after` is the
    number of seconds after which the server that refused the request may accept it, or None.

    MaisiError
    ├── InvalidRequest       an argument was refused, here or by the server
    │   └── MaskError        the mask cannot be read or is not a label mask
    ├── ServerUnavailable    no server answers, or it takes no more work; already retried
    ├── Mismatch             a reproduced volume, or its inputs, differ from the recorded ones
    ├── Timeout              the whole request, or the next message, took too long
    └── ServerError          the server failed, or its answer is invalid
    """

    kind = "unsupported"

    def __init__(
        self, sentence: str, kind: str | None = None, retry_after: float | None = None
    ) -> None:
        """Store the sentence, its kind (None for that of the class) and `retry_after`."""
        super().__init__(sentence)
        self.kind = kind or type(self).kind
        self.retry_after = retry_after


def printable(text: str, length: int = 2000) -> str:
    """Return a foreign text, cut to `length`, for a terminal or a header.

    Line ends become spaces. Control characters and invisible ones, such as those that change the
    direction of text, become question marks. The joiners of Persian and Indic scripts stay.
    """
    return "".join(map(_visible, text[:length]))


def _visible(character: str) -> str:
    if character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs":
        return character  # Zs: spaces
    return " " if character.isspace() else "?"


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error, for a sentence of ours."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0]).rstrip(".")


class InvalidRequest(MaisiError):
    """An argument was refused, here or by the server."""

    kind = "invalid_request"


class MaskError(InvalidRequest):
    """The mask cannot be read or is not a label mask."""


class ServerUnavailable(MaisiError):
    """No server answers, or it takes no more work."""

    kind = "unavailable"


class Mismatch(MaisiError):
    """A reproduced volume, or one of its inputs, differs from what its report records."""

    kind = "mismatch"


class Timeout(MaisiError):
    """The request, or the silence within it, lasted longer than allowed."""

    kind = "timeout"


class ServerError(MaisiError):
    """The server failed while it worked on the request, or its answer is invalid."""

    kind = "unexpected"


def is_transient(error: MaisiError) -> bool:
    """Return whether a retry, or another server, may succeed."""
    return error.kind in _TRANSIENT
