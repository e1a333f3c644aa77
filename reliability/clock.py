"""Cause a fault of the machine: set its clock while requests run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from maisi_client import Progress, Volume

from reliability.fault_target import FaultTarget, Unable, Wrong

_JUMP = 600.0  # seconds, longer than any timeout of the server
_STEPS = 60  # solver steps of the request that runs during the shift


@contextmanager
def shifted_clock(seconds: float) -> Iterator[None]:
    """Shift the machine's clock by `seconds` during the block.

    Raises Unable if this user may not set the clock.
    """
    ahead = time.clock_gettime(time.CLOCK_REALTIME) - time.monotonic()
    try:
        time.clock_settime(time.CLOCK_REALTIME, ahead + time.monotonic() + seconds)
    except PermissionError:
        raise Unable("this user may not set the machine's clock") from None
    try:
        yield
    finally:
        time.clock_settime(time.CLOCK_REALTIME, ahead + time.monotonic())


def set_clock(target: FaultTarget) -> str:
    """Shift the clock forward and back during requests; return the outcome in words."""
    before = _processes(target)
    expected = target.good(steps=_STEPS)
    for seconds in (_JUMP, -_JUMP):
        with closing(target.client.stream(target.mask, steps=_STEPS, seed=11)) as events:
            for event in events:
                if isinstance(event, Progress) and event.stage == "sampler":
                    break
            with shifted_clock(seconds):
                for event in events:
                    if isinstance(event, Progress) and event.fraction > 0.5:
                        break
                if target.good() != target.sha256:
                    raise Wrong("a request with a shifted clock returned different bytes")
            *_, last = events
        if not isinstance(last, Volume) or last.report["sha256"]["image"] != expected:
            raise Wrong("a request that ran during the shift returned different bytes")
    restarts = "no process" if _processes(target) == before else "a process"
    return f"{_JUMP:g} s forward and back: the same bytes; {restarts} was started again"


def _processes(target: FaultTarget) -> set[int]:
    """Return the ids of the processes of tritonserver and its models."""
    return {process.pid for process in (target.server.triton, *target.server.stubs().values())}
