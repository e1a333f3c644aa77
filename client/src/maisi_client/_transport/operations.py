"""The I/O operations of a request, as values that a driver performs.

A generator of operations (`session.py`) chooses the server, the time limit and the retries. A
driver performs each operation and sends its result, or throws its error, into the generator. The
driver `threads.py` works in the caller's thread, `loop.py` in an asyncio event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar

from numpy.typing import NDArray

from .pool import PooledServer
from .shared import Region

_T = TypeVar("_T")


@dataclass(frozen=True)
class Lookup:
    """Call a method of the server's connection within `seconds`; its result is the answer.

    Throws `InferenceServerException`.
    """

    server: PooledServer[Any]
    method: str
    arguments: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class OpenStream:
    """Send a request on a new stream.

    The stream is closed at the next operation that is not in `WITHIN_STREAM`. `deadline` is a time
    of `time.monotonic()`.
    """

    server: PooledServer[Any]
    model: str
    inputs: Mapping[str, NDArray[Any]]
    deadline: float
    traceparent: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The gRPC metadata of the stream."""
        return {} if self.traceparent is None else {"traceparent": self.traceparent}


@dataclass(frozen=True)
class Receive:
    """Wait up to `seconds` for a message; the result is a `Message`, or None after that time.

    Throws EOFError if the server has ended the stream.
    """

    seconds: float


@dataclass(frozen=True)
class Compute:
    """Call a function that may take long; the result is its return value."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Emit:
    """Yield `event` to the caller; the result is None."""

    event: Any


@dataclass(frozen=True)
class Sleep:
    """Wait for `seconds`; the result is None."""

    seconds: float


Operation: TypeAlias = Lookup | OpenStream | Receive | Compute | Emit | Sleep
Operations: TypeAlias = Generator[Operation, Any, _T]
WITHIN_STREAM = (Receive, Compute, Emit)


class Message(NamedTuple):
    """A message of a stream; `result` is None if the message has no tensors or is an `error`."""

    result: Any
    error: Any
    final: bool


def message(result: Any, error: Any, region: Region) -> Message:
    """Return the message for a callback of tritonclient; `region` has the stream's volumes."""
    if error is not None:
        return Message(None, error, False)
    response = result.get_response()
    final = bool(response.parameters["triton_final_response"].bool_param)
    # The last message may have nothing but the final flag.
    return Message(region.read(result) if response.raw_output_contents else None, None, final)
