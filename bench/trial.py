"""Run one trial of a contender: measure the time and memory of a process that makes volumes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from bench import ROOT
from bench.processes import peaks, process_tree, resident
from bench.workload import Workload

_INTERVAL = 0.25  # seconds between two samples of the memory; a sample takes some milliseconds


class ContenderFailed(Exception):
    """A contender made no volume; the message is one sentence."""


@dataclass(frozen=True)
class Trial:
    """The measurements of a trial: times in seconds, and peaks of memory in bytes.

    `start` is the time from the start of the process until it accepts a mask. `first` has the time
    of each stage for the first volume, and `warm` the medians for the other volumes. `image` is the
    file of the last volume. `memory` is the resident memory of all processes of the contender.
    `gpu` is the memory of the GPU minus its memory before the trial, or None without a GPU.
    """

    start: float
    first: dict[str, float | None]
    warm: dict[str, float | None]
    memory: int
    gpu: int | None
    image: Path
    notes: str


def run_trial(name: str, workload: Workload, folder: Path, volumes: int = 2) -> Trial:
    """Return the measurements of the contender `name` for `volumes` volumes.

    The image and the log are written to `folder`. Raises ContenderFailed.
    """
    log_path, image = folder / f"{name}.log", folder / f"{name}.npy"
    command = [sys.executable, "-m", "bench.contenders", name, json.dumps(asdict(workload))]
    # The child imports packages of the working tree that are not installed.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    with log_path.open("w") as log, gpu_memory(workload.device == "cuda") as gpu:
        begin = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            with peaks(lambda: resident(process_tree(process.pid)), seconds=_INTERVAL) as memory:
                ready = _answer(process, name, log_path)
                start = time.monotonic() - begin
                first, *rest = (_ask(process, name, image, log_path) for _ in range(volumes))
        finally:
            _end(process)
    warm = {stage: _median([times[stage] for times in rest]) for stage in first}
    return Trial(start, first, warm, memory[0], gpu[0] if gpu else None, image, ready["notes"])


def _median(times: list[float | None]) -> float | None:
    """Return the median, or None for a stage that cannot be measured separately."""
    return statistics.median(t for t in times if t is not None) if None not in times else None


def _ask(
    process: subprocess.Popen[str], name: str, image: Path, log: Path
) -> dict[str, float | None]:
    with suppress(BrokenPipeError):  # the process has ended; `_answer` reports it
        _pipe(process.stdin).write(f"{image}\n")
        _pipe(process.stdin).flush()
    seconds: dict[str, float | None] = _answer(process, name, log)["seconds"]
    return seconds


def _answer(process: subprocess.Popen[str], name: str, log: Path) -> dict[str, Any]:
    line = _pipe(process.stdout).readline()
    if not line:
        raise ContenderFailed(f"{name}: ended with status {process.wait()}; its log is {log}")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise ContenderFailed(f"{name}: {answer['error']}")
    return answer


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def _end(process: subprocess.Popen[str]) -> None:
    """Close the standard input of a contender, which ends it and its server, and wait."""
    with suppress(BrokenPipeError):
        _pipe(process.stdin).close()
    process.wait()
    _pipe(process.stdout).close()


@contextmanager
def gpu_memory(enabled: bool) -> Iterator[list[int]]:
    """Yield a list with the peak memory in bytes of the first GPU, minus the memory at the start.

    nvidia-smi reports the memory that processes reserve, which may be more than they use. The list
    is empty if `enabled` is false.
    """
    if not enabled:
        yield []
        return
    query = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    smi = subprocess.Popen(
        [*query, f"--loop-ms={round(1000 * _INTERVAL)}"], stdout=subprocess.PIPE, text=True
    )
    before = int(_pipe(smi.stdout).readline())
    peak = [0]

    def watch() -> None:
        for line in _pipe(smi.stdout):
            if line.strip().isdecimal():
                peak[0] = max(peak[0], (int(line) - before) << 20)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        smi.terminate()
        smi.wait()
        thread.join()
