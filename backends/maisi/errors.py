"""The errors of a request: each has a kind and one sentence for the caller.

Triton 2.51 sends errors of a decoupled model only as text. `render` therefore puts the kind before
the sentence, and the client parses it (_transport/errors.py). docs/reference/errors.md describes
each kind. inner_models.py converts errors of networks, and model.py all other errors.
"""

from __future__ import annotations


class RequestError(Exception):
    """The base of all errors of a request; `str(error)` is the sentence.

    `code` is the name of Triton's code in `TritonError`. `retry_after` is the whole number of
    seconds after which the same server may accept the request, or None if it is unknown.
    """

    kind = "internal"
    code = "INTERNAL"

    def __init__(self, sentence: str, retry_after: int | None = None) -> None:
        """Set the sentence and the seconds."""
        super().__init__(sentence)
        self.retry_after = retry_after


class InvalidRequest(RequestError, ValueError):
    """The request is wrong, or this variant cannot do it."""

    kind, code = "invalid_request", "INVALID_ARG"


class Overloaded(RequestError):
    """The queue is full, or the time limit is too short for the current load."""

    kind, code = "overloaded", "UNAVAILABLE"


class OutOfMemory(Overloaded):
    """A network did not fit into the memory."""

    kind = "out_of_memory"


class Stopping(RequestError):
    """The server is stopping."""

    kind, code = "stopping", "UNAVAILABLE"


class TimeUp(RequestError):
    """The request has exceeded its time limit."""

    kind, code = "timeout", "CANCELLED"


class Cancelled(RequestError):
    """The caller no longer wants the answer."""

    kind, code = "cancelled", "CANCELLED"

    def __init__(self) -> None:
        """Set the sentence."""
        super().__init__("the caller cancelled")


class EngineFailed(RequestError):
    """A network of the variant answered with an error."""

    kind = "engine_failed"


def render(error: RequestError) -> str:
    """Return the text of an error: `[kind] sentence`, or `[kind retry_after=5] sentence`."""
    after = "" if error.retry_after is None else f" retry_after={error.retry_after}"
    return f"[{error.kind}{after}] {error}"
