"""Restart processes of a running server that died or hang: models, or tritonserver."""

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
FROZEN = 5.0  # seconds that a process may be stopped, as by a debugger, until it is killed


def watch(triton: Triton, stubs: dict[int, str], health: Health, stop: Stop) -> str | None:
    """Reload models whose processes died or froze, and remove files of clients that have ended.

    `stubs` maps the ids of all processes that must live to their models.

    Return the reason why tritonserver has to be restarted, or None at a signal. A restart is needed
    if tritonserver ended, volumes fail, a request hangs, a model does not load again, or the
    process of a decoupled model died. In the last case Triton sends no error to the streams of that
    model, so their connections have to end.
    """
    frozen: dict[int, float] = {}
    while not stop.wait(POLL):
        if (status := triton.process.poll()) is not None:
            return f"tritonserver ended by itself with status {status}"
        reap(triton.process.pid)
        if hang := health.hang():
            return hang
        alive = triton.stubs()
        frozen = _kill_frozen({triton.process.pid: "tritonserver", **alive}, frozen)
        dead = _dead(triton, {stubs[pid] for pid in stubs.keys() - alive.keys()})
        if dead and triton.process.poll() is not None:
            continue  # the processes of models ended with tritonserver
        for model in dead:
            if _is_decoupled(triton, model):
                return f"the process of {model} died"
        for model in dead:
            health.loading = model
            health.restarts[model] += 1
            if not load_again(triton, model, stop):
                return f"{model} did not load again"
            health.recovered(f"{model} died, and no volume has been made since")
        # A process that died during the reload of another model has to be missed in the next round.
        others = {pid: model for pid, model in alive.items() if model not in dead}
        stubs = others | triton.stubs() if dead else alive
        region_modes.close_regions(triton.prefix)
        with suppress(ControlError):  # too busy to answer
            shared_memory.sweep_clients(triton.control.regions(), triton.control.unregister)
    return None


def reap(own: int) -> None:
    """Wait for all ended child processes except `own`, which this server started.

    As process 1 of a container, or as a subreaper, this process gets orphans as children.
    """
    state = os.WEXITED | os.WNOHANG | os.WNOWAIT
    with suppress(ChildProcessError):  # there are no children
        while (child := os.waitid(os.P_ALL, 0, state)) is not None and child.si_pid != own:
            os.waitpid(child.si_pid, 0)


def _dead(triton: Triton, models: set[str]) -> list[str]:
    """Return those of `models`, whose processes ended, that an operator has not unloaded."""
    try:
        states = triton.control.states() if models else {}
    except ControlError:  # too busy to answer
        return sorted(models)
    return sorted(model for model in models if states.get(model) == "READY")


def _is_decoupled(triton: Triton, model: str) -> bool:
    try:
        return decoupled(triton.control.config(model))
    except ControlError:  # tritonserver also died, or has to be restarted in any case
        return True


def _kill_frozen(alive: dict[int, str], since: dict[int, float]) -> dict[int, float]:
    """Kill processes that have been stopped for too long.

    `alive` maps process ids to models. `since` maps the ids of stopped processes to the times when
    the stop was first seen. Return the new value of `since`.
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

    Triton itself does not notice that a process died, and reports the model as ready. Return False
    if the model did not load again.
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
            if stop.wait(2.0**attempt):
                return True
        else:
            log(f"{model} serves again after {time.monotonic() - start:.1f} s")
            return True
    return False
