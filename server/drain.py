"""How a server stops: it refuses new requests, finishes those that run, and keeps a deadline."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.control import Control, ControlError
from server.triton import Triton

FILE_VARIABLE = "MAISI_STOPPING"  # as backends/maisi/stopping.py has it
POLL = 0.25  # seconds between two polls
SETTLED = 4  # polls without work until the models are at rest: a request is between two at times
GRACE = 15.0  # seconds after the deadline for the answers that name the seed
QUIET = 2.0  # seconds without work after which an open stream counts as idle
WORK = 0.05  # seconds of processor time, or any answer, that count as work


class Stopped(Exception):
    """A signal asked to stop without waiting for requests."""


class Stop:
    """Counts the signals: the first asks to stop, the second not to wait any longer."""

    def __init__(self) -> None:
        """Catch SIGTERM, SIGINT, SIGQUIT and, unless it is ignored (nohup), SIGHUP from here on."""
        self.count = 0
        self.event = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self.handle)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self.handle)

    def handle(self, number: int, frame: object) -> None:
        """Count a signal, SIGHUP once: shell and kernel may both send it when a terminal closes."""
        self.count = max(1, self.count) if number == signal.SIGHUP else self.count + 1
        self.event.set()

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self.count > 0

    @property
    def immediate(self) -> bool:
        """Whether to stop without waiting for requests."""
        return self.count > 1


def drain(triton: Triton, seconds: float, file: Path, stop: Stop) -> str | None:
    """Refuse new requests and wait for the others; return the models that did not finish.

    The models read `file` and refuse new work with UNAVAILABLE, and running work once `seconds` are
    over, with the seed that makes the same volume elsewhere. At rest, the endpoints are unloaded:
    Triton then waits for the requests that it has itself. Raises Stopped at a second signal, and
    ControlError where Triton has ended.
    """
    part = file.with_suffix(".part")
    part.write_text(str(time.monotonic() + seconds))  # as backends/maisi/stopping.py reads it
    os.replace(part, file)
    end = time.monotonic() + seconds + GRACE
    idle_polls = 0
    while idle_polls < SETTLED and time.monotonic() < end:
        _pause(stop)
        try:
            idle_polls = 0 if triton.control.activity().busy else idle_polls + 1
        except ControlError:  # too busy to answer
            if triton.process.poll() is not None:
                raise
            idle_polls = 0
    return _unload_endpoints(triton, end, stop)


def _endpoints(control: Control) -> dict[str, bool]:
    """Return what clients call, ensembles and decoupled models, and whether it is decoupled."""
    ready = [model for model, state in control.states().items() if state == "READY"]
    configs = {model: control.config(model) for model in ready}
    return {
        model: decoupled(config)
        for model, config in configs.items()
        if decoupled(config) or "ensemble_scheduling" in config
    }


def decoupled(config: Mapping[str, Any]) -> bool:
    """Return whether a model sends any number of answers to a request, as a stream does."""
    return bool(config.get("model_transaction_policy", {}).get("decoupled"))


def _unload_endpoints(triton: Triton, end: float, stop: Stop) -> str | None:
    """Unload the endpoints; return those that are not unloaded at the time `end`.

    A stream that its client keeps open keeps its endpoint from being unloaded even when nothing
    runs: then it counts as idle once no model has worked for a while.
    """
    control = triton.control
    endpoints = _endpoints(control)
    for model in endpoints:
        control.unload(model)
    work, work_at = triton.work(), time.monotonic()
    while True:
        loaded = [
            model
            for model, state in control.states().items()
            if model in endpoints and state == "UNLOADING"
        ]
        now, latest = time.monotonic(), triton.work()
        if latest - work > WORK:
            work, work_at = latest, now
        idle = now - work_at > QUIET and all(endpoints[model] for model in loaded)
        if not loaded or idle:
            return None
        if now > end:
            return ", ".join(loaded)
        _pause(stop)


def _pause(stop: Stop) -> None:
    if stop.immediate:
        raise Stopped
    time.sleep(POLL)
