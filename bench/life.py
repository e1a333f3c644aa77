"""One life of a contender: started, asked for two volumes, watched, ended."""

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
from bench.processes import family, peaks, resident
from bench.task import Task

_INTERVAL = 0.25  # seconds between two samples of the memory, which take some milliseconds each


class ContenderFailed(Exception):
    """A contender cannot do what it was asked; the message is one sentence."""


@dataclass(frozen=True)
class Life:
    """What a life took: seconds, and bytes at the most.

    `start`: from the start of the process until it could take a mask. `first` and `warm`: seconds
    by stage of its first volume, and medians of those after it; `image` is the file of the last
    one. `memory`: resident, of all its processes together; `gpu`: what the GPU held more than
    before, None without one.
    """

    start: float
    first: dict[str, float | None]
    warm: dict[str, float | None]
    memory: int
    gpu: int | None
    image: Path
    notes: str


def live(name: str, task: Task, folder: Path, volumes: int = 2) -> Life:
    """Let the contender `name` live and make so many volumes; image and log go to `folder`.

    Raises ContenderFailed.
    """
    log_path, image = folder / f"{name}.log", folder / f"{name}.npy"
    command = [sys.executable, "-m", "bench.rivals", name, json.dumps(asdict(task))]
    # For what runs from the working tree without being installed.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    with log_path.open("w") as log, gpu_memory(task.device == "cuda") as gpu:
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
            with peaks(lambda: resident(family(process.pid)), seconds=_INTERVAL) as memory:
                ready = _answer(process, name, log_path)
                start = time.monotonic() - begin
                first, *rest = (_ask(process, name, image, log_path) for _ in range(volumes))
        finally:
            _end(process)
    warm = {stage: _median([times[stage] for times in rest]) for stage in first}
    return Life(start, first, warm, memory[0], gpu[0] if gpu else None, image, ready["notes"])


def _median(times: list[float | None]) -> float | None:
    """Return the median, None for a stage that cannot be told apart."""
    return statistics.median(t for t in times if t is not None) if None not in times else None


def _ask(
    process: subprocess.Popen[str], name: str, image: Path, log: Path
) -> dict[str, float | None]:
    with suppress(BrokenPipeError):  # it has ended, and the answer will be that
        _pipe(process.stdin).write(f"{image}\n")
        _pipe(process.stdin).flush()
    seconds: dict[str, float | None] = _answer(process, name, log)["seconds"]
    return seconds


def _answer(process: subprocess.Popen[str], name: str, log: Path) -> dict[str, Any]:
    line = _pipe(process.stdout).readline()
    if not line:
        raise ContenderFailed(f"{name}: ended with status {process.wait()}; {log} may say why")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise ContenderFailed(f"{name}: {answer['error']}")
    return answer


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def _end(process: subprocess.Popen[str]) -> None:
    """Close its standard input, at which it ends what it started, and wait."""
    with suppress(BrokenPipeError):
        _pipe(process.stdin).close()
    process.wait()
    _pipe(process.stdout).close()


@contextmanager
def gpu_memory(wanted: bool) -> Iterator[list[int]]:
    """Give a list whose only element is what the first GPU held at the most beyond the beginning.

    Bytes, as nvidia-smi tells them: what processes reserve, not only what they use. Empty where not
    `wanted`.
    """
    if not wanted:
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
