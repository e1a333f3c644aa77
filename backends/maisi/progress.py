"""How far a request of the stream is: told to the caller, and timed by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from . import stopping
from .gate import Ticket
from .request import Plan

WAITING = "waiting"  # the stage of a request that waits for its turn
_INTERVAL = 1.0  # seconds between two messages of a request that waits
# How much of a whole request has passed when a part begins; the sampler's share of an attempt.
MASK_ENCODER, ATTEMPTS = 0.02, 0.05
SAMPLER = 0.84


class Progress:
    """The progress of one request; `seconds` are those of each stage, without waiting."""

    def __init__(self, plan: Plan, send: Callable[..., None], ticket: Ticket) -> None:
        """`send(stage, progress)` tells the caller, and raises when the caller has gone."""
        self.seconds: dict[str, float] = {}
        self._plan, self._send, self._ticket = plan, send, ticket
        self._progress, self._last_message = 0.0, 0.0

    @contextmanager
    def stage(self, name: str, progress: float) -> Iterator[None]:
        """Tell the caller that a stage begins, and time what is done within."""
        self._tell(name, progress)
        started = self._ticket.clock()
        yield
        spent = self._ticket.clock() - started
        self.seconds[name] = self.seconds.get(name, 0.0) + spent

    def wait(self) -> None:
        """Wait for the request's turn; raises as `Ticket.begin` and `step` do."""
        self._ticket.begin(self._while_waiting)

    def step(self, stage: str, progress: float) -> None:
        """Tell how far a stage is, and wait where a shorter request comes first.

        Raises TimeUp, Stopping, and what `send` raises.
        """
        self._tell(stage, progress)
        self._ticket.step(progress, self._while_waiting)

    def mask_step(self, done: int, total: int) -> None:
        """Hear of a step of the networks that make a mask."""
        self.step("mask", MASK_ENCODER * done / total)

    def sampler_step(self, attempt: int) -> Callable[[int, int], None]:
        """Return what hears of each step of an attempt's sampler."""
        return lambda done, total: self.step(
            "sampler", self.of_attempt(attempt, SAMPLER * done / total)
        )

    def of_attempt(self, attempt: int, done: float) -> float:
        """Return how much of the whole has passed when an attempt is `done`, 0..1."""
        return ATTEMPTS + (1 - ATTEMPTS) * (attempt + done) / (self._plan.redraws + 1)

    def _tell(self, stage: str, progress: float) -> None:
        self._send(stage, progress)
        self._progress = progress

    def _while_waiting(self) -> None:
        stopping.check_deadline(self._plan.seed)
        if time.monotonic() - self._last_message > _INTERVAL:
            self._send(WAITING, self._progress)
            self._last_message = time.monotonic()
