"""Run a step: resume it, stop it at its deadline, and save its state after each case."""

from __future__ import annotations

import hashlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench import ROOT
from bench.acceptance.steps import AcceptanceStep, Setting

WORK = ROOT / "build" / "acceptance"
SECONDS = 480.0  # limit of a step in one call
_SOURCES = ("backends", "bench", "export", "model_repository", "server")
_GRACE = 20.0  # seconds for servers of a stopped case to end

State = dict[str, Any]


def version() -> str:
    """Return the version of the sources: the first 12 digits of their SHA-256."""
    digest = hashlib.sha256()
    for folder in _SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".toml", ".pbtxt") and path.is_file():
                digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def run(
    step: AcceptanceStep,
    setting: Setting,
    key: Mapping[str, Any],
    again: bool = False,
    seconds: float = SECONDS,
) -> State:
    """Run the cases of a step that have no result yet, for at most `seconds`; return its state.

    A state that was saved with another `key` is ignored. If `again` is true, any saved state is
    ignored.
    """
    path = setting.folder / f"{step.name}.json"
    state = load(path)
    if again or state is None or state["key"] != dict(key):
        state = {"step": step.name, "key": dict(key), "order": [], "cases": {}, "load": 0.0}
    save(path, state)
    attempt, deadline = uuid.uuid4().hex[:8], time.monotonic() + seconds
    first = ""
    while True:
        running, ended = "", False
        for event in _events(step, setting, path, attempt, deadline):
            if "cases" in event:
                state["order"] = event["cases"]
                state["cases"] = {k: v for k, v in state["cases"].items() if k in state["order"]}
            elif "begin" in event:
                running = event["begin"]
                first = first or running
                state["cases"].pop(running, None)
            elif "end" in event:
                name, running = event.pop("end"), ""
                state["cases"][name] = {**event, "run": attempt}
                state["load"] = round(os.getloadavg()[1], 1)
                ended = event["status"] == "failed"
            elif "status" in event:  # exit status of the process, which ended by itself
                if running or event["status"]:
                    reason = f"the process ended with status {event['status']}"
                    _fail(state, running or "start", reason, attempt)
                    ended = bool(running)
            elif running == first:
                _fail(state, running or "start", f"did not end within {seconds:.0f} s", attempt)
            state |= summary(state)
            save(path, state)
        if not ended:
            return state


def _fail(state: State, name: str, reason: str, attempt: str) -> None:
    if name not in state["order"]:
        state["order"] = [*state["order"], name]
    state["cases"][name] = {"status": "failed", "reason": reason, "seconds": 0, "run": attempt}


def _events(
    step: AcceptanceStep, setting: Setting, path: Path, attempt: str, deadline: float
) -> Iterator[dict[str, Any]]:
    """Yield the events of a worker, and then its exit status or that the deadline stopped it."""
    words = [step.name, step.module, json.dumps(setting.as_dict()), str(path), attempt]
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    with path.with_suffix(".log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.acceptance.worker", *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": search},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        for line in _lines(process.stdout, deadline):
            yield json.loads(line)
        if time.monotonic() < deadline:
            yield {"status": process.wait()}
        else:
            yield {"stopped": True}
    finally:
        _end(process)
        process.stdout.close()


def _lines(pipe: Any, deadline: float) -> Iterator[bytes]:
    """Yield complete lines until the end of the pipe or the deadline."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            part = os.read(pipe.fileno(), 1 << 16)
            if not part:
                return
            *lines, rest = (rest + part).split(b"\n")
            yield from lines


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the worker and its child processes with SIGTERM and then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)


def summary(state: State) -> dict[str, Any]:
    """Return the status of a step, and the sum of the seconds of its cases."""
    statuses = [state["cases"].get(name, {}).get("status", "open") for name in state["order"]]
    if "failed" in statuses:
        status = "failed"
    elif "open" in statuses or not statuses:
        status = "unfinished"
    else:
        status = "done" if "done" in statuses else "not done"
    seconds = sum(case["seconds"] for case in state["cases"].values())
    return {"status": status, "seconds": round(seconds, 1)}


def load(path: Path) -> State | None:
    """Return a saved state, or None if it does not exist or is incomplete."""
    try:
        state: State = json.loads(path.read_bytes())
        state["key"], state["order"], state["cases"]
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return state


def save(path: Path, state: State) -> None:
    """Write a state atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(state) + "\n")
    os.replace(new, path)
