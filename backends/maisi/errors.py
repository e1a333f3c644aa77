"""The errors of a request: each has a kind and one sentence for the caller.

Errors of a decoupled model reach a caller as text alone (Triton 2.51), so `render` puts the kind
before the sentence; the client parses it (_transport/errors.py), and docs/reference/errors.md
describes each kind. Errors of networks become these in inner_models.py, all others in model.py.
"""

from __future__ import annotations


class RequestError(Exception):
    """`str(error)` is the sentence, `code` Triton's name for it in `TritonError`.

    `retry_after`: whole seconds after which the same server may accept the request; None: unknown.
    """

    kind = "internal"
    code = "INTERNAL"

    def __init__(self, sentence: str, retry_after: int | None = None) -> None:
        """Set the sentence and the seconds."""
        super().__init__(sentence)
        self.retry_after = retry_after


class InvalidRequest(RequestError, ValueError):
    """The request is wrong, or cannot be done by this variant."""

    kind, code = "invalid_request", "INVALID_ARG"


class Overloaded(RequestError):
    """The queue is full, or the time too short, for the moment."""

    kind, code = "overloaded", "UNAVAILABLE"


class OutOfMemory(Overloaded):
    """A network did not fit into the memory."""

    kind = "out_of_memory"


class Stopping(RequestError):
    """The server is stopping."""

    kind, code = "stopping", "UNAVAILABLE"


class TimeUp(RequestError):
    """The request has used up its time."""

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
