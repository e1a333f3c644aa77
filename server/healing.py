"""What dies or hangs in a running server, and how it is brought back."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import TextIO

import psutil

from server import layout, private
from server.status import Health
from server.stopping import LOOK, Stop, decoupled
from server.triton import Refused, Triton

RETRIES = 4  # attempts to load a model whose process died, with pauses of 1, 2, 4, ... seconds
FROZEN = 5.0  # seconds for which a process may be stopped, as a debugger does, before it is killed


def log(message: str) -> None:
    """Write one line for the operator, between Triton's own lines."""
    say(sys.stderr, f"serve: {message}")


def say(stream: TextIO | None, line: str) -> None:
    """Write a line to a standard stream; nobody may read it any more, which stops nothing."""
    if stream is not None:
        with suppress(OSError):  # past Python's buffer, which would keep what is not read
            os.write(stream.fileno(), f"{line}\n".encode(errors="backslashreplace"))


def watch(triton: Triton, known: dict[int, str], health: Health, stop: Stop) -> str | None:
    """Bring back models whose process died or froze, and forget dead clients.

    `known`: process id -> model, of all that have to live.

    Returns why tritonserver itself has to start again, None once asked to stop. That is when it
    ended, when volumes fail or work hangs, when a model does not load again, and when the process
    of a decoupled model died: of its streams Triton tells nobody, so their connections have to end.
    """
    frozen: dict[int, float] = {}
    while not stop.event.wait(LOOK):
        if (status := triton.process.poll()) is not None:
            return f"tritonserver ended by itself with status {status}"
        reap(triton.process.pid)
        if hung := health.hung():
            return hung
        alive = triton.stubs()
        frozen = _frozen({triton.process.pid: "tritonserver", **alive}, frozen)
        dead = _dead(triton, {known[pid] for pid in known.keys() - alive.keys()})
        for model in dead:
            if _streams(triton, model):
                return f"the process of {model} died"
        for model in dead:
            health.loading = model
            health.restarts[model] += 1
            if not revive(triton, model, stop):
                return f"{model} did not load again"
            health.healed()
        known = triton.stubs() if dead else alive
        private.close_regions(triton.prefix)
        with suppress(Refused):  # too busy to say
            layout.sweep_clients(triton.regions(), triton.unregister)
    return None


def reap(own: int) -> None:
    """Take the exit status of children that ended, but not of `own`, a process that we started.

    As process 1 of a container, or as a subreaper, this process gets the orphans of others.
    """
    state = os.WEXITED | os.WNOHANG | os.WNOWAIT
    with suppress(ChildProcessError):  # there are none
        while (ended := os.waitid(os.P_ALL, 0, state)) is not None and ended.si_pid != own:
            os.waitpid(ended.si_pid, 0)


def _dead(triton: Triton, ended: set[str]) -> list[str]:
    """Return those of the models whose process ended that an operator has not unloaded."""
    try:
        states = triton.states() if ended else {}
    except Refused:  # too busy to say
        return sorted(ended)
    return sorted(model for model in ended if states.get(model) == "READY")


def _streams(triton: Triton, model: str) -> bool:
    try:
        return decoupled(triton.config(model))
    except Refused:  # it died as well, or is no better
        return True


def _frozen(alive: dict[int, str], since: dict[int, float]) -> dict[int, float]:
    """Kill what has been stopped for too long; return who is stopped, and since when."""
    now, found = time.monotonic(), {}
    for pid, model in alive.items():
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_STOPPED:
                found[pid] = since.get(pid, now)
                if now - found[pid] > FROZEN:
                    log(f"the process of {model} was stopped from outside; ending it")
                    process.kill()
    return found


def revive(triton: Triton, model: str, stop: Stop) -> bool:
    """Unload and load a model whose process died; its clients get an error, others go on.

    Triton itself does neither notice nor repair that, and calls the model ready. Returns False
    where it did not load again.
    """
    log(f"the process of {model} died; loading it again")
    started = time.monotonic()
    for attempt in range(RETRIES):
        try:
            triton.unload(model)
            triton.load(model)
        except Refused as error:
            log(f"{model} did not load: {error}")
            if triton.process.poll() is not None:
                return False
            if stop.event.wait(2.0**attempt):
                return True
        else:
            log(f"{model} serves again after {time.monotonic() - started:.1f} s")
            return True
    return False
