"""What can go wrong, as types."""

from __future__ import annotations

import unicodedata

# Of which kinds the same server later, or another one now, may answer; docs/api.md has all kinds.
_PASSING = frozenset(
    {"overloaded", "out_of_memory", "stopping", "engine_failed", "internal", "unavailable"}
)


class MaisiError(Exception):
    """Base of every error this package raises; `str(error)` is one sentence for a person.

    `kind` is one word for a program, docs/api.md lists them; `retry_after` the seconds after which
    a server that refused expects to take more work, None: it does not say.

    MaisiError
    ├── InvalidRequest       an argument was refused, here or by the server
    │   └── MaskError        the mask cannot be read or is not a label map
    ├── ServerUnavailable    no server answers, or it takes no more work; already retried
    ├── Mismatch             what was made again is not what it was
    ├── Timeout              the whole request, or the next sign of life, took too long
    └── ServerError          the server failed while it worked, or its answer is none
    """

    kind = "unsupported"

    def __init__(
        self, sentence: str, kind: str | None = None, retry_after: float | None = None
    ) -> None:
        """Keep what a program needs beside the sentence; `kind`: None is that of the class."""
        super().__init__(sentence)
        self.kind = kind or type(self).kind
        self.retry_after = retry_after


def printable(text: str, length: int = 2000) -> str:
    """Return a text of others, cut to `length`, for a terminal or a header.

    Line ends become spaces. Control characters become question marks, and so do those that are not
    seen, as what changes the direction of a text.
    """
    return "".join(map(_seen, text[:length]))


def _seen(one: str) -> str:
    if one.isprintable() or unicodedata.category(one) == "Zs":  # spaces, those of any width
        return one
    return " " if one.isspace() else "?"


def first_line(error: BaseException) -> str:
    """Return what another library's error says, for a sentence of ours."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0]).rstrip(".")


class InvalidRequest(MaisiError):
    """An argument was refused, here or by the server."""

    kind = "invalid_request"


class MaskError(InvalidRequest):
    """The mask cannot be read or is not a label map."""


class ServerUnavailable(MaisiError):
    """No server answers, or it takes no more work."""

    kind = "unavailable"


class Mismatch(MaisiError):
    """What was made again, or what it is made of, differs from what a sidecar recorded."""

    kind = "mismatch"


class Timeout(MaisiError):
    """The request, or the silence within it, lasted longer than allowed."""

    kind = "timeout"


class ServerError(MaisiError):
    """The server failed while it worked on the request, or its answer cannot be believed."""

    kind = "unexpected"


def worth_another_try(error: MaisiError) -> bool:
    """Tell whether another server, or the same one later, may answer."""
    return error.kind in _PASSING
