"""What a request may end with but an answer: a kind, and one sentence for the caller.

Errors of a decoupled model reach a caller as text alone (Triton 2.51), so `render` puts what a
program needs before the sentence; docs/api.md says what each kind means, and the client reads it.
"""

from __future__ import annotations


class RequestError(Exception):
    """`str(error)` is the sentence, `code` Triton's name for it in `TritonError`.

    `retry_after`: the whole seconds after which the same server may do better, None: it says none.
    """

    kind = "internal"
    code = "INTERNAL"

    def __init__(self, sentence: str, retry_after: int | None = None) -> None:
        """Keep the seconds beside the sentence."""
        super().__init__(sentence)
        self.retry_after = retry_after


class InvalidRequest(RequestError, ValueError):
    """What was asked cannot be done."""

    kind, code = "invalid_request", "INVALID_ARG"


class Overloaded(RequestError):
    """The queue is full, or time is short, for now."""

    kind, code = "overloaded", "UNAVAILABLE"


class OutOfMemory(Overloaded):
    """A network did not fit into the memory."""

    kind = "out_of_memory"


class Stopping(RequestError):
    """The server does not do this any more."""

    kind, code = "stopping", "UNAVAILABLE"


class TimeUp(RequestError):
    """The request has used up its time."""

    kind, code = "timeout", "CANCELLED"


class Cancelled(RequestError):
    """The caller no longer wants the answer."""

    kind, code = "cancelled", "CANCELLED"

    def __init__(self) -> None:
        """Take the sentence, which is the same for all."""
        super().__init__("the caller cancelled")


class EngineFailed(RequestError):
    """A network of the variant answered with an error."""

    kind = "engine_failed"


def render(error: RequestError) -> str:
    """Return what the caller is sent: `[kind] sentence`, or `[kind retry_after=5] sentence`."""
    after = "" if error.retry_after is None else f" retry_after={error.retry_after}"
    return f"[{error.kind}{after}] {error}"
