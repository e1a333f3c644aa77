"""Restart of what died or hangs in a running server: a model's process, or tritonserver."""

from __future__ import annotations

import os
import time
from contextlib import suppress

import psutil

from server import region_modes, shared_memory
from server.control import ControlError
from server.drain import POLL, Stop, decoupled
from server.health import Health
from server.log import log
from server.triton import Triton

RETRIES = 4  # attempts to load a model whose process died, with pauses of 1, 2, 4, ... seconds
FROZEN = 5.0  # seconds for which a process may be stopped, as a debugger does, before it is killed


def watch(triton: Triton, stubs: dict[int, str], health: Health, stop: Stop) -> str | None:
    """Reload models whose process died or froze, and remove what clients that ended left.

    `stubs`: process id -> model, of all that have to live.

    Returns why tritonserver itself has to start again, None at a signal. It has to when it ended,
    when volumes fail or work hangs, when a model does not load again, and when the process of a
    decoupled model died: Triton sends no error to that model's streams, so their connections have
    to end.
    """
    frozen: dict[int, float] = {}
    while not stop.event.wait(POLL):
        if (status := triton.process.poll()) is not None:
            return f"tritonserver ended by itself with status {status}"
        reap(triton.process.pid)
        if hang := health.hang():
            return hang
        alive = triton.stubs()
        frozen = _kill_frozen({triton.process.pid: "tritonserver", **alive}, frozen)
        dead = _dead(triton, {stubs[pid] for pid in stubs.keys() - alive.keys()})
        if dead and triton.process.poll() is not None:
            continue  # they ended with it
        for model in dead:
            if _is_decoupled(triton, model):
                return f"the process of {model} died"
        for model in dead:
            health.loading = model
            health.restarts[model] += 1
            if not load_again(triton, model, stop):
                return f"{model} did not load again"
            health.recovered()
        stubs = triton.stubs() if dead else alive
        region_modes.close_regions(triton.prefix)
        with suppress(ControlError):  # too busy to answer
            shared_memory.sweep_clients(triton.control.regions(), triton.control.unregister)
    return None


def reap(own: int) -> None:
    """Take the exit status of children that ended, but not of `own`, a process that we started.

    As process 1 of a container, or as a subreaper, this process gets the orphans of others.
    """
    state = os.WEXITED | os.WNOHANG | os.WNOWAIT
    with suppress(ChildProcessError):  # there are none
        while (child := os.waitid(os.P_ALL, 0, state)) is not None and child.si_pid != own:
            os.waitpid(child.si_pid, 0)


def _dead(triton: Triton, models: set[str]) -> list[str]:
    """Return those of the models, whose process ended, that an operator has not unloaded."""
    try:
        states = triton.control.states() if models else {}
    except ControlError:  # too busy to answer
        return sorted(models)
    return sorted(model for model in models if states.get(model) == "READY")


def _is_decoupled(triton: Triton, model: str) -> bool:
    try:
        return decoupled(triton.control.config(model))
    except ControlError:  # tritonserver died as well, or has to start again anyway
        return True


def _kill_frozen(alive: dict[int, str], since: dict[int, float]) -> dict[int, float]:
    """Kill processes that have been stopped for too long.

    `alive`: process id -> model. `since`, and what is returned: process id of each process that is
    stopped -> when that was first seen.
    """
    now, frozen = time.monotonic(), {}
    for pid, model in alive.items():
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_STOPPED:
                frozen[pid] = since.get(pid, now)
                if now - frozen[pid] > FROZEN:
                    log(f"the process of {model} was stopped from outside; ending it")
                    process.kill()
    return frozen


def load_again(triton: Triton, model: str, stop: Stop) -> bool:
    """Unload and load a model whose process died; its clients get an error.

    Triton itself does not notice such a death, and calls the model ready. Returns False where the
    model did not load again.
    """
    log(f"the process of {model} died; loading it again")
    start = time.monotonic()
    for attempt in range(RETRIES):
        try:
            triton.control.unload(model)
            triton.control.load(model)
        except ControlError as error:
            log(f"{model} did not load: {error}")
            if triton.process.poll() is not None:
                return False
            if stop.event.wait(2.0**attempt):
                return True
        else:
            log(f"{model} serves again after {time.monotonic() - start:.1f} s")
            return True
    return False
