"""What a request needs from outside, as steps that a driver does: no step waits by itself.

A generator of steps decides (`session.py`): which server, until when, when again. Its driver does
each step and sends the outcome back, or throws the error: `threads.py`, or `loop.py` for asyncio.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar

from numpy.typing import NDArray

from .pool import Server
from .shared import Region

_T = TypeVar("_T")


@dataclass(frozen=True)
class Lookup:
    """Call a method of the server's connection; comes back: its answer.

    It has `seconds`. Throws `InferenceServerException`.
    """

    server: Server[Any]
    method: str
    arguments: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Begin:
    """Send a request on a stream of its own, which ends with the next step but those below.

    `deadline` is of `time.monotonic()`.
    """

    server: Server[Any]
    model: str
    inputs: Mapping[str, NDArray[Any]]
    deadline: float


@dataclass(frozen=True)
class Receive:
    """Wait so many seconds for the stream; comes back: a `Message`, None if there is none.

    Throws EOFError where the server ended the stream.
    """

    seconds: float


@dataclass(frozen=True)
class Compute:
    """Call a function that may take long; comes back: what it returns."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Give:
    """Hand something to who asked; comes back: None."""

    event: Any


@dataclass(frozen=True)
class Sleep:
    """Wait so many seconds; comes back: None."""

    seconds: float


Step: TypeAlias = Lookup | Begin | Receive | Compute | Give | Sleep
Steps: TypeAlias = Generator[Step, Any, _T]
WITHIN_STREAM = (Receive, Compute, Give)


class Message(NamedTuple):
    """A message of a stream; `result`: None where it has no tensors, or is an `error`."""

    result: Any
    error: Any
    final: bool


def message(result: Any, error: Any, region: Region) -> Message:
    """Return what tritonclient says of a stream whose volumes are in `region`."""
    if error is not None:
        return Message(None, error, False)
    response = result.get_response()
    final = bool(response.parameters["triton_final_response"].bool_param)
    # The last message may be no more than the flag.
    return Message(region.read(result) if response.raw_output_contents else None, None, final)
