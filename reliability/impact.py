"""Measure the impact of an attack on an ordinary client and on the server's resources."""

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

_REQUEST: dict[str, Any] = {"size": [32, 32, 32], "steps": 2, "seed": 7, "modality": "mri_t2"}
_MINIMUM = 3  # ordinary requests before the attacks, and smallest number during each attack
_SETTLE = 0.5  # seconds from the end of an attack to the last sample of memory
_RECOVERY = 60.0  # limit in seconds until a server that an attack ended serves again


@dataclass(frozen=True)
class AttackRun:
    """The arguments of an attack: a server, an amount, and a function that waits.

    `hold` waits until some more ordinary requests have ended.
    """

    server: Server
    amount: int
    hold: Callable[[], None]


class OrdinaryClient:
    """A client that requests a small volume repeatedly, in a thread."""

    def __init__(self, url: str):
        """Start the thread."""
        self.count = 0
        self.seconds: list[float] = []  # of requests that succeeded
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
                    self.digests.add(client.generate(**_REQUEST).report["sha256"]["image"])
                    self.seconds.append(time.monotonic() - started)
                except MaisiError as error:
                    self.failures[str(error)[:200]] += 1
                    time.sleep(0.1)
                self.count += 1

    def wait(self) -> None:
        """Wait until some more requests have ended."""
        count = self.count + _MINIMUM
        while self.count < count and self._thread.is_alive():
            time.sleep(0.01)

    def end(self) -> None:
        """Wait for the last request and stop the thread."""
        self._done.set()
        self._thread.join()


def _family(server: Server) -> list[psutil.Process]:
    """Return the processes of tritonserver and its models, or [] while tritonserver restarts."""
    with suppress(psutil.Error, LookupError):
        triton = server.triton
        return [triton, *triton.children()]
    return []


def _of_triton(server: Server) -> int:
    """Return tritonserver's resident memory in bytes."""
    return processes.resident(_family(server)[:1])


def _of_models(server: Server) -> int:
    """Return the resident memory of the processes of all models in bytes."""
    return processes.resident(_family(server)[1:])


def measure(
    server: Server, idle: OrdinaryClient, do: Callable[[AttackRun], Counter[str]], amount: int
) -> dict[str, Any]:
    """Attack a server during ordinary requests; return the outcome.

    `idle` is an ordinary client that ran before the attacks. `slower` in the outcome is the median
    time of a request divided by that of `idle`. `megabytes` has the memory before the attack, at
    its peak, and after the attack.
    """
    measures = (partial(_of_triton, server), partial(_of_models, server))
    family, before = _family(server), [measure() for measure in measures]
    ordinary = OrdinaryClient(server.grpc)
    started = time.monotonic()
    try:
        with processes.peaks(*measures) as peaks:
            try:
                answers = do(AttackRun(server, amount, ordinary.wait))
            except OSError as error:  # the server has ended
                answers = Counter([f"lost: {error}"])
            seconds = time.monotonic() - started
            if ordinary.count < _MINIMUM:
                ordinary.wait()
    finally:
        ordinary.end()
    time.sleep(_SETTLE)
    after = [measure() for measure in measures]
    survived = {process.pid for process in family} == {process.pid for process in _family(server)}
    if not survived:
        _wait_until_recovered(server)
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
        "megabytes": {name: [round(size / 1e6) for size in sizes] for name, *sizes in memory},
        "survived": survived,
    }


def _wait_until_recovered(server: Server) -> None:
    """Wait until the server makes a volume; raise MaisiError after `_RECOVERY` seconds."""
    deadline = time.monotonic() + _RECOVERY
    with Client(server.grpc, retries=0, timeout=_RECOVERY) as client:
        while True:
            try:
                client.generate(**_REQUEST)
                return
            except MaisiError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
