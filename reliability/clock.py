"""A fault of the machine: its clock is set, while requests run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from maisi_client import Progress, Volume

from reliability.scene import Scene, Unable, Wrong

_JUMP = 600.0  # seconds, more than anything waits for anything
_STEPS = 60  # of the request that runs meanwhile


@contextmanager
def another_time(seconds: float) -> Iterator[None]:
    """Have the machine's clock be so many seconds ahead within, or behind.

    Raises Unable where that is not allowed.
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


def set_clock(scene: Scene) -> str:
    """Set the clock forth and back in requests, and right again in each."""
    before = _processes(scene)
    expected = scene.good(steps=_STEPS)
    for seconds in (_JUMP, -_JUMP):
        with closing(scene.client.stream(scene.mask, steps=_STEPS, seed=11)) as events:
            for event in events:
                if isinstance(event, Progress) and event.stage == "sampler":
                    break
            with another_time(seconds):
                for event in events:
                    if isinstance(event, Progress) and event.fraction > 0.5:
                        break
                if scene.good() != scene.sha256:
                    raise Wrong("other bytes at another time")
            *_, last = events
        if not isinstance(last, Volume) or last.report["sha256"]["image"] != expected:
            raise Wrong("a request that ran meanwhile gave other bytes")
    told = "no process was" if _processes(scene) == before else "processes were"
    went = f"{_JUMP:g} s forth and back: requests went on, with the same bytes"
    return f"{went}; {told} started again"


def _processes(scene: Scene) -> set[int]:
    """Return the ids of tritonserver's process and its models'."""
    return {process.pid for process in (scene.server.triton, *scene.server.stubs().values())}
