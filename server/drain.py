"""Stop a server: refuse new requests, and finish running requests until a deadline."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.control import Control, ControlError
from server.log import log
from server.triton import Triton

FILE_VARIABLE = "MAISI_STOPPING"  # the same as in backends/maisi/stopping.py
POLL = 0.25  # seconds between two polls
LOOK = 0.05  # seconds between two looks for a signal
SETTLED = 4  # polls without work until the models are idle; a request may be between two models
GRACE = 15.0  # seconds after the deadline for the errors that contain the seed
QUIET = 2.0  # seconds without work after which an open stream counts as idle
WORK = 0.05  # seconds of processor time that count as work; an answer also does


class Stopped(Exception):
    """A signal requested a stop without waiting for requests."""


class Stop:
    """Counts signals: the first requests a stop, the second a stop without waiting."""

    def __init__(self) -> None:
        self.count = 0

    def install(self) -> None:
        """Handle SIGTERM, SIGINT, SIGQUIT and, unless it is ignored (nohup), SIGHUP."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self.handle)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self.handle)

    def handle(self, number: int, frame: object) -> None:
        """Count a signal, SIGHUP once: shell and kernel may both send it when a terminal closes."""
        # No lock, as of an Event: the interrupted code may hold it, and would wait for itself.
        self.count = max(1, self.count) if number == signal.SIGHUP else self.count + 1

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self.count > 0

    @property
    def immediate(self) -> bool:
        """Whether to stop without waiting for requests."""
        return self.count > 1

    def wait(self, seconds: float) -> bool:
        """Wait until a stop is requested, at most `seconds`; return whether it is."""
        end = time.monotonic() + seconds
        while not self.requested and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, LOOK))
        return self.requested


def drain(triton: Triton, seconds: float, file: Path, stop: Stop) -> str | None:
    """Refuse new requests and wait for running ones; return the models that did not finish.

    The models read `file`. They refuse new requests with UNAVAILABLE. After `seconds`, they end
    running requests with an error that contains the seed, with which another server makes the same
    volume. When the models are idle, the endpoints are unloaded, because Triton then waits for the
    requests in its queues. Raises Stopped at a second signal, and ControlError if Triton has ended.
    """
    part = file.with_suffix(".part")
    try:
        part.write_text(str(time.monotonic() + seconds))  # the format of backends/maisi/stopping.py
        os.replace(part, file)
    except OSError as error:
        log(f"new requests are not refused while this server stops: {error.strerror}: {file}")
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
    """Return the models that clients call, ensembles and streams, and whether each is decoupled."""
    ready = [model for model, state in control.states().items() if state == "READY"]
    configs = {model: control.config(model) for model in ready}
    return {
        model: decoupled(config)
        for model, config in configs.items()
        if decoupled(config) or "ensemble_scheduling" in config
    }


def decoupled(config: Mapping[str, Any]) -> bool:
    """Return whether a model may send several answers to a request, like a stream."""
    return bool(config.get("model_transaction_policy", {}).get("decoupled"))


def _unload_endpoints(triton: Triton, end: float, stop: Stop) -> str | None:
    """Unload the endpoints; return those that are not unloaded at the time `end`.

    An open stream of a client prevents that its endpoint is unloaded, even if no request runs. Such
    an endpoint counts as unloaded when no model has worked for `QUIET` seconds.
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
