"""How a server stops: nothing new, what runs finishes, and all of it within a deadline."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.triton import Refused, Triton

FILE_VARIABLE = "MAISI_STOPPING"  # as backends/maisi/stopping.py has it
LOOK = 0.25  # seconds between two looks
SETTLED = 4  # looks without work that mean rest: an ensemble's request is between models at times
TELL = 15.0  # seconds after the deadline in which whoever still waits is told where to go on
QUIET = 2.0  # seconds without work after which an open stream counts as idle
WORK = 0.05  # seconds of processor time, or any answer, that count as work


class Stopped(Exception):
    """The operator does not want to wait."""


class Stop:
    """Counts the signals: the first asks to stop, the second not to wait any longer."""

    def __init__(self) -> None:
        """Catch SIGTERM, SIGINT, SIGQUIT and, unless it is ignored (nohup), SIGHUP from here on."""
        self.count = 0
        self.event = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self.caught)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self.caught)

    def caught(self, number: int, frame: object) -> None:
        """Note a signal; of a terminal that closes, shell and kernel may both send one."""
        self.count = max(1, self.count) if number == signal.SIGHUP else self.count + 1
        self.event.set()

    @property
    def asked(self) -> bool:
        """Whether to stop."""
        return self.count > 0

    @property
    def hurry(self) -> bool:
        """Whether to stop without waiting for requests."""
        return self.count > 1


def drain(triton: Triton, seconds: float, file: Path, stop: Stop) -> str | None:
    """Refuse new requests, wait until those taken are answered; return who was given up.

    The models read `file` and refuse new work with UNAVAILABLE, and running work once `seconds` are
    over, with the seed that makes the same volume elsewhere. When nothing is left, the endpoints
    are closed: Triton then waits for what it has itself. Raises Stopped at a second signal, and
    Refused where Triton has ended.
    """
    part = file.with_suffix(".part")
    part.write_text(str(time.monotonic() + seconds))  # as backends/maisi/stopping.py reads it
    os.replace(part, file)
    end = time.monotonic() + seconds + TELL
    looks = 0
    while looks < SETTLED and time.monotonic() < end:
        _pause(stop)
        try:
            looks = 0 if triton.busy() else looks + 1
        except Refused:  # too busy to say
            if triton.process.poll() is not None:
                raise
            looks = 0
    return _close(triton, end, stop)


def _endpoints(triton: Triton) -> dict[str, dict[str, Any]]:
    """Return what clients call, ensembles and decoupled models, with their configurations."""
    ready = [model for model, state in triton.states().items() if state == "READY"]
    configs = {model: triton.config(model) for model in ready}
    return {
        model: config
        for model, config in configs.items()
        if decoupled(config) or "ensemble_scheduling" in config
    }


def decoupled(config: Mapping[str, Any]) -> bool:
    """Tell whether a model sends answers when it likes, as a stream does."""
    return bool(config.get("model_transaction_policy", {}).get("decoupled"))


def _close(triton: Triton, end: float, stop: Stop) -> str | None:
    """Unload the endpoints, ensembles and decoupled models; wait until Triton says they are gone.

    A stream that its client keeps open keeps its endpoint from being unloaded even when nothing
    runs: then it counts as idle once no model has worked for a while.
    """
    endpoints = {model: decoupled(config) for model, config in _endpoints(triton).items()}
    for model in endpoints:
        triton.unload(model)
    worked, work = time.monotonic(), triton.work()
    while True:
        running = [
            m for m, state in triton.states().items() if m in endpoints and state == "UNLOADING"
        ]
        now, done = time.monotonic(), triton.work()
        if done - work > WORK:
            worked, work = now, done
        if not running or (all(endpoints[model] for model in running) and now - worked > QUIET):
            return None
        if now > end:
            return ", ".join(running)
        _pause(stop)


def _pause(stop: Stop) -> None:
    if stop.hurry:
        raise Stopped
    time.sleep(LOOK)
