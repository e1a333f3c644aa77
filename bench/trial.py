"""One trial of a contender: a process that makes two volumes, and its time and memory."""

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

_INTERVAL = 0.25  # seconds between two samples of the memory, which take some milliseconds each


class ContenderFailed(Exception):
    """A contender made no volume; the message is one sentence."""


@dataclass(frozen=True)
class Trial:
    """The measurements of a trial: seconds, and bytes at the peak.

    `start`: from the start of the process until it accepted a mask. `first` and `warm`: seconds
    by stage of its first volume, and medians of those after it; `image` is the file of the last
    one. `memory`: resident, of all its processes together; `gpu`: memory of the GPU beyond
    that before the trial, None without a GPU.
    """

    start: float
    first: dict[str, float | None]
    warm: dict[str, float | None]
    memory: int
    gpu: int | None
    image: Path
    notes: str


def run_trial(name: str, workload: Workload, folder: Path, volumes: int = 2) -> Trial:
    """Run the contender `name` for so many volumes; image and log go to `folder`.

    Raises ContenderFailed.
    """
    log_path, image = folder / f"{name}.log", folder / f"{name}.npy"
    command = [sys.executable, "-m", "bench.contenders", name, json.dumps(asdict(workload))]
    # For what runs from the working tree without being installed.
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
    """Return the median, None for a stage that cannot be measured by itself."""
    return statistics.median(t for t in times if t is not None) if None not in times else None


def _ask(
    process: subprocess.Popen[str], name: str, image: Path, log: Path
) -> dict[str, float | None]:
    with suppress(BrokenPipeError):  # it has ended, which `_answer` reports
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
    """Close its standard input, at whose end it stops its server, and wait."""
    with suppress(BrokenPipeError):
        _pipe(process.stdin).close()
    process.wait()
    _pipe(process.stdout).close()


@contextmanager
def gpu_memory(enabled: bool) -> Iterator[list[int]]:
    """Give a list with the peak memory of the first GPU beyond that at the beginning.

    Bytes, as nvidia-smi reports them: what processes reserve, not only what they use. Empty where
    not `enabled`.
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
