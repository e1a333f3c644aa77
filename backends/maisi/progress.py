"""The progress of a request of the stream, sent to the caller, and the seconds of its stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from . import stopping, tracing
from .gate import WAITING, Ticket
from .request import Plan
from .sampler import RunModel

# The progress, 0..1, at which a stage begins; SAMPLER is the sampler's share of an attempt.
MASK_ENCODER, ATTEMPTS = 0.02, 0.05
SAMPLER = 0.84


class RequestProgress:
    """The progress of a request; `seconds` has the time of each stage without waiting."""

    def __init__(self, plan: Plan, send: Callable[..., None], ticket: Ticket) -> None:
        """Start at 0; `send(stage, progress)` sends a message, and raises if the caller is gone.

        While the request waits, it is called every quarter of a second.
        """
        self.seconds: dict[str, float] = {}
        self._plan, self._send, self._ticket = plan, send, ticket
        self._progress = 0.0

    @contextmanager
    def stage(self, name: str, progress: float) -> Iterator[None]:
        """Report the begin of a stage, and measure and trace the block."""
        self._report(name, progress)
        started = self._ticket.clock()
        with tracing.span(name):
            yield
        elapsed = self._ticket.clock() - started
        self.seconds[name] = self.seconds.get(name, 0.0) + elapsed

    def begin(self) -> None:
        """Wait until the request may start; raises as `Ticket.begin` does."""
        self._ticket.begin(self._while_waiting)

    def gated(self, run_model: RunModel) -> RunModel:
        """Return a `run_model` that waits for the networks before its first call.

        It raises as `Ticket.enter` does.
        """

        def call(model: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
            self._ticket.enter(self._while_waiting)
            return run_model(model, inputs, outputs)

        return call

    def step(self, stage: str, progress: float) -> None:
        """Report the progress of a stage, and pause for a shorter request.

        Raises TimeUp, Stopping, and the errors of `send`.
        """
        self._report(stage, progress)
        self._ticket.step(progress, self._while_waiting)

    def mask_step(self, done: int, total: int) -> None:
        """Report a step of the mask network; raises as `step` does."""
        self.step("mask", MASK_ENCODER * done / total)

    def sampler_step(self, attempt: int) -> Callable[[int, int], None]:
        """Return a callback `(done, total)` for the steps of an attempt's sampler."""
        return lambda done, total: self.step(
            "sampler", self.of_attempt(attempt, SAMPLER * done / total)
        )

    def of_attempt(self, attempt: int, done: float) -> float:
        """Return the progress of the request when the fraction `done` of an attempt is done."""
        return ATTEMPTS + (1 - ATTEMPTS) * (attempt + done) / (self._plan.redraws + 1)

    def _report(self, stage: str, progress: float) -> None:
        self._send(stage, progress)
        self._progress = progress

    def _while_waiting(self) -> None:
        stopping.check_deadline(self._plan.seed)
        self._send(WAITING, self._progress)
