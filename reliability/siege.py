"""A server under attack: what an ordinary client and the server's memory see of it."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
from maisi_client import Client, MaisiError

from bench import processes
from bench.launcher import Server

_ASKED: dict[str, Any] = {"size": [32, 32, 32], "steps": 2, "seed": 7, "modality": "mri_t2"}
_FEW = 3  # ordinary requests that are made before the attacks, and at least during each
_SETTLE = 0.5  # seconds after an attack until its memory counts as kept
_HEALED = 60.0  # seconds in which a server that an attack ended has to serve again


@dataclass(frozen=True)
class Siege:
    """What an attack gets: a server, how much of it is wanted, and a pause.

    `hold` returns when ordinary requests have been made meanwhile.
    """

    server: Server
    amount: int
    hold: Callable[[], None]


class Ordinary:
    """A client that asks for a small volume again and again, in a thread."""

    def __init__(self, url: str):
        """Begin to ask."""
        self.count = 0
        self.seconds: list[float] = []  # of those that succeeded
        self.digests: set[str] = set()
        self.failures: Counter[str] = Counter()
        self._url, self._done = url, threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        with Client(self._url, retries=0, timeout=60) as client:
            while not self._done.is_set():
                started = time.monotonic()
                try:
                    self.digests.add(client.generate(**_ASKED).report["sha256"]["image"])
                    self.seconds.append(time.monotonic() - started)
                except MaisiError as error:
                    self.failures[str(error)[:200]] += 1
                    time.sleep(0.1)
                self.count += 1

    def wait(self) -> None:
        """Return after some more requests."""
        count = self.count + _FEW
        while self.count < count and self._thread.is_alive():
            time.sleep(0.01)

    def end(self) -> None:
        """Finish the last request."""
        self._done.set()
        self._thread.join()


def _family(server: Server) -> list[psutil.Process]:
    """Return tritonserver and its models' processes; nothing while it starts again."""
    with suppress(psutil.Error, LookupError):
        triton = server.triton
        return [triton, *triton.children()]
    return []


def _of_triton(server: Server) -> int:
    """Return tritonserver's resident memory in bytes."""
    return processes.resident(_family(server)[:1])


def _of_models(server: Server) -> int:
    """Return the resident memory of all models' processes in bytes."""
    return processes.resident(_family(server)[1:])


def besiege(
    server: Server, idle: Ordinary, do: Callable[[Siege], Counter[str]], amount: int
) -> dict[str, Any]:
    """Attack a server while an ordinary client asks it; return what came of it.

    `idle`: what such a client saw before the attacks; times are ratios to its. Memory in MB: before
    the attack, at the most, and afterwards.
    """
    measures = (partial(_of_triton, server), partial(_of_models, server))
    family, before = _family(server), [measure() for measure in measures]
    ordinary = Ordinary(server.grpc)
    started = time.monotonic()
    try:
        with processes.peaks(*measures) as peaks:
            try:
                answers = do(Siege(server, amount, ordinary.wait))
            except OSError as error:  # it has ended
                answers = Counter([f"lost: {error}"])
            seconds = time.monotonic() - started
            if ordinary.count < _FEW:
                ordinary.wait()
    finally:
        ordinary.end()
    time.sleep(_SETTLE)
    after = [measure() for measure in measures]
    survived = {process.pid for process in family} == {each.pid for each in _family(server)}
    if not survived:
        _wait_until_healed(server)
    median = statistics.median(ordinary.seconds or [math.inf])
    memory = zip(("tritonserver", "models"), before, peaks, after, strict=True)
    return {
        "amount": amount,
        "seconds": round(seconds, 2),
        "answers": dict(answers),
        "ordinary": ordinary.count,
        "slower": round(median / statistics.median(idle.seconds), 2),
        "failures": dict(ordinary.failures),
        "same_bytes": len(idle.digests | ordinary.digests) == 1,
        "sha256": sorted(idle.digests | ordinary.digests)[0],
        "megabytes": {name: [round(each / 1e6) for each in sizes] for name, *sizes in memory},
        "survived": survived,
    }


def _wait_until_healed(server: Server) -> None:
    """Wait for a volume; raises MaisiError where there is none in `_HEALED` seconds."""
    deadline = time.monotonic() + _HEALED
    with Client(server.grpc, retries=0, timeout=_HEALED) as client:
        while True:
            try:
                client.generate(**_ASKED)
                return
            except MaisiError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
