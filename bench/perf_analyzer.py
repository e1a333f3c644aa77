"""Run NVIDIA's perf_analyzer for one level of load and read the times that it measures."""

from __future__ import annotations

import ctypes
import mmap
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.launcher import KEY_HEADER, SHM

_BYTES_PER_VALUE = 16  # memory of perf_analyzer for a value of a request or an answer


class Failed(RuntimeError):
    """A run measured nothing; the message is one sentence."""


@dataclass(frozen=True)
class Load:
    """A level of load: `requests` requests at a concurrency or, if that is 0, `rate` per second."""

    requests: int
    concurrency: int = 0
    rate: float = 0.0

    def __str__(self) -> str:
        return f"{self.concurrency} at once" if self.concurrency else f"{self.rate:g}/s"


@dataclass(frozen=True)
class Endpoint:
    """A model and its transport.

    `shared_memory` is the size of each output in bytes; 0 means that outputs are sent by gRPC.
    """

    model: str
    streaming: bool
    shared_memory: int = 0


@dataclass(frozen=True)
class RequestTimes:
    """The times of a request and of its responses, in seconds since the epoch."""

    start: float
    responses: tuple[float, ...]

    @property
    def latency(self) -> float:
        """The seconds until the last response, which has the volume."""
        return self.responses[-1] - self.start


def memory_needed(load: Load, endpoint: Endpoint, voxels: int) -> int:
    """Return an estimate of perf_analyzer's memory in bytes; it keeps all masks and volumes."""
    return 0 if endpoint.shared_memory else load.requests * 2 * voxels * _BYTES_PER_VALUE


def run(
    program: Sequence[str],
    url: str,
    endpoint: Endpoint,
    load: Load,
    data: Path,
    seconds: float,
    key: str = "",
) -> list[RequestTimes]:
    """Return the times of the requests of `load` to an endpoint of the server at `url` (gRPC).

    `data` is a file for `--input-data` with the inputs of the requests. Shared memory needs the
    operator's `key`. Raises Failed if a request fails, because that ends perf_analyzer, or if
    perf_analyzer takes more than `seconds`.
    """
    with tempfile.TemporaryDirectory(prefix="loadtest-") as folder:
        profile, log = Path(folder, "profile.json"), Path(folder, "log")
        words = [*program, "-m", endpoint.model, "-u", url, "-i", "grpc", f"--input-data={data}"]
        # With --sync, perf_analyzer has too few threads to send requests at the rate.
        words.append("--streaming" if endpoint.streaming else "--async")
        if endpoint.shared_memory:
            words.append("--shared-memory=system")
            words += ["-H", f"{KEY_HEADER}:{key}"]
            words.append(f"--output-shared-memory-size={endpoint.shared_memory}")
        # The end of the range is its start, because a single number means "up to 1".
        words.append(
            f"--concurrency-range={load.concurrency}"
            if load.concurrency
            else f"--request-rate-range={load.rate}:{load.rate}:{load.rate}"
        )
        words += [f"--request-count={load.requests}", f"--profile-export-file={profile}"]
        status = -1
        for _ in range(2):  # perf_analyzer sometimes crashes in gRPC
            with log.open("wb") as out:
                status = _wait(words, out.fileno(), seconds)
            if profile.is_file():  # the file was complete before a crash
                return read(profile)
            if status >= 0:
                break
        raise Failed(reason(log.read_text(errors="replace"), status))


def _wait(words: Sequence[str], out: int, seconds: float) -> int:
    """Run a command to its end; return the exit status.

    Raises Failed if the command takes more than `seconds`. A command that is stopped leaves no
    files in /dev/shm.
    """
    # The new session keeps Ctrl-C from perf_analyzer. It would hang after Ctrl-C, because it waits
    # for answers to requests that it no longer sends.
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=out,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise Failed(f"perf_analyzer did not end within {seconds:g} s and was stopped.") from None
    finally:
        if process.poll() is None:
            regions = _regions(process.pid)
            process.kill()
            process.wait()
            for path in regions:
                path.unlink(missing_ok=True)


def _regions(pid: int) -> set[Path]:
    """Return the files in /dev/shm that a process has mapped."""
    with suppress(psutil.Error):
        mapped = {Path(memory_map.path) for memory_map in psutil.Process(pid).memory_maps()}
        return {path for path in mapped if path.parent == SHM}
    return set()


def _end_with_parent() -> None:
    """Make the kernel end perf_analyzer when this process is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def reason(log: str, status: int) -> str:
    """Return the reason of a failure, from perf_analyzer's output."""
    for pattern in (r"Thread \[\d+\] had error: (.+)", r"(?m)^[Ee]rror: (.+)"):
        if match := re.search(pattern, log):
            return match[1].strip()
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "no output")
    return f"perf_analyzer ended with status {status} and {last.strip()!r}."


def read(profile: Path) -> list[RequestTimes]:
    """Return the times in a file of `--profile-export-file`, in the order of the requests.

    The last response of a stream is empty and is left out, as perf_analyzer does. The file has
    every mask and volume in decimal digits, so it is searched, not parsed. Raises Failed if the
    file has no answered request.
    """
    requests = []
    with profile.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        starts = re.finditer(rb'"timestamp":(\d+)', text)
        responses = re.finditer(rb'"response_timestamps":\[([\d,]+)\]', text)
        for start, ends in zip(starts, responses, strict=True):
            times = tuple(int(end) / 1e9 for end in ends[1].split(b","))
            content = times[:-1] if len(times) > 1 else times
            requests.append(RequestTimes(int(start[1]) / 1e9, content))
    if not requests:
        raise Failed("perf_analyzer measured no request.")
    return sorted(requests, key=lambda request: request.start)
