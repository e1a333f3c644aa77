"""Watches over one tritonserver: from its start until the last request has left."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tritonclient.grpc as grpc

from server import layout
from server.triton import Address, Triton, variant_of

LOOK = 0.25  # seconds between two looks at the processes
RETRIES = 5  # attempts to load a model whose process died, with pauses of 1, 2, 4, ... seconds
QUIET = 2.0  # seconds without work after which an open stream counts as idle
WORK = 0.05  # seconds of processor time, or any answer, that count as work
EXIT = 5.0  # seconds an idle tritonserver gets to go; open, idle streams keep it from going


class ServerError(Exception):
    """The server cannot go on; the message is one sentence for its operator."""


@dataclass(frozen=True)
class Settings:
    """What to serve and how; paths exist, times in seconds."""

    triton: Path
    backends: Path
    repository: Path
    models: list[str]
    address: Address
    start_seconds: float
    drain_seconds: float


def log(message: str) -> None:
    """Write one line for the operator, between Triton's own lines."""
    print(f"serve: {message}", file=sys.stderr, flush=True)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return; a second signal returns at once.

    Raises ServerError when the server does not start or ends by itself.
    """
    stop = Stop()
    with running(settings) as (triton, address):
        try:
            variants = wait_until_ready(triton, settings, stop)
            print(
                f"ready: grpc={address.host}:{address.grpc} http={address.host}:{address.http}"
                f" metrics={address.host}:{address.metrics} variants={','.join(variants)}",
                flush=True,
            )
            watch(triton, stop)
            drain(triton, settings.drain_seconds, stop)
        except Stopped:
            log("stopped at once")
        finally:
            triton.end(0.0 if stop.hurry else EXIT)


class Stopped(Exception):
    """The operator does not want to wait."""


class Stop:
    """Counts the signals: the first asks to stop, the second not to wait any longer."""

    def __init__(self) -> None:
        """Catch SIGTERM and SIGINT from here on."""
        self.count = 0
        self.event = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.caught)

    def caught(self, number: int, frame: object) -> None:
        """Note a signal."""
        self.count += 1
        self.event.set()

    @property
    def asked(self) -> bool:
        """Whether to stop."""
        return self.count > 0

    @property
    def hurry(self) -> bool:
        """Whether to stop without waiting for requests."""
        return self.count > 1


@contextmanager
def running(settings: Settings) -> Iterator[tuple[Triton, Address]]:
    """Start tritonserver in a place of its own, and leave nothing of it behind."""
    if left := layout.sweep_shared_memory():
        log(f"removed {left} shared memory regions that a dead server had left")
    try:
        address = settings.address.fixed()
    except OSError as error:
        raise ServerError(
            f"The server cannot listen on {settings.address.host}: {error.strerror}."
        ) from None
    if busy := address.taken():
        ports = ", ".join(str(port) for port in busy)
        raise ServerError(
            f"{address.host} port {ports} is in use: stop who listens there, or give"
            " --grpc-port, --http-port and --metrics-port others (0 takes a free one)."
        )
    shared_memory = layout.claim_shared_memory()
    try:
        with tempfile.TemporaryDirectory(prefix="maisi-serve-") as folder:
            backends = Path(folder, "backends")  # the name of the package that ours are in
            layout.lay_backends(settings.triton, settings.backends, backends)
            yield (
                Triton(
                    settings.triton,
                    backends,
                    settings.repository,
                    settings.models,
                    address,
                    shared_memory,
                ),
                address,
            )
    finally:
        layout.remove_shared_memory(shared_memory[0])


def wait_until_ready(triton: Triton, settings: Settings, stop: Stop) -> list[str]:
    """Wait for the server, then for one tiny volume of every variant; returns the variants.

    Raises ServerError when it does not come in `start_seconds`, Stopped when asked to stop.
    """
    deadline = time.monotonic() + settings.start_seconds
    while not triton.ready():
        if stop.asked:
            raise Stopped
        if (status := triton.process.poll()) is not None:
            raise ServerError(
                f"tritonserver ended with status {status} while it loaded the models; its own"
                " lines above say why."
            )
        if time.monotonic() > deadline:
            raise ServerError(
                f"The models did not load within {settings.start_seconds:g} seconds; the last"
                " 'loading' line above names the one that hangs (--start-seconds waits longer)."
            )
        time.sleep(0.1)
    variants = []
    for model, state in sorted(triton.states().items()):
        config = triton.config(model) if state == "READY" else None
        if config is None or not config.HasField("ensemble_scheduling"):
            continue
        if (variant := variant_of(config)) is None:
            continue
        try:
            triton.probe(model, variant["size"]["min"])
        except grpc.InferenceServerException as error:
            raise ServerError(f"{model} loaded but cannot compute: {error.message()}") from None
        variants.append(model)
    return variants


def watch(triton: Triton, stop: Stop) -> None:
    """Bring back models whose process died, until asked to stop.

    Raises ServerError when tritonserver itself ended.
    """
    known = triton.stubs()
    while not stop.event.wait(LOOK):
        if (status := triton.process.poll()) is not None:
            raise ServerError(f"tritonserver ended by itself with status {status}.")
        alive = triton.stubs()
        dead = {known[pid] for pid in known.keys() - alive.keys()}
        for model in sorted(dead):
            revive(triton, model, stop)
        known = triton.stubs() if dead else alive


def revive(triton: Triton, model: str, stop: Stop) -> None:
    """Unload and load a model whose process died; its clients get an error, others go on.

    Triton itself does neither notice nor repair that, and calls the model ready. Raises
    ServerError when the model does not load again.
    """
    log(f"the process of {model} died; loading it again")
    started = time.monotonic()
    for attempt in range(RETRIES):
        try:
            triton.unload(model)
            triton.load(model)
        except grpc.InferenceServerException as error:
            log(f"{model} did not load: {error.message()}")
            if stop.event.wait(2.0**attempt):
                return
        else:
            log(f"{model} serves again after {time.monotonic() - started:.1f} s")
            return
    raise ServerError(f"{model} died and did not load again in {RETRIES} attempts.")


def drain(triton: Triton, seconds: float, stop: Stop) -> None:
    """Refuse new requests, and wait until the running ones are answered.

    The doors, ensembles and decoupled models, are closed: Triton then answers a new request
    NOT_FOUND, lets the running ones finish, and reports a door unloaded when they have. The models
    behind the doors stay, since every step of a running request still asks for one.
    A stream that its client keeps open keeps its door from being unloaded even when nothing runs:
    then it counts as idle once no model has worked for a while.
    Raises Stopped at a second signal.
    """
    doors = {}
    for model, state in triton.states().items():
        config = triton.config(model) if state == "READY" else None
        if config is not None:
            decoupled = config.model_transaction_policy.decoupled
            if decoupled or config.HasField("ensemble_scheduling"):
                triton.unload(model)
                doors[model] = decoupled
    log("stopping: running requests finish first (a second signal stops at once)")
    end = time.monotonic() + seconds
    worked, work = time.monotonic(), triton.work()
    while True:
        running = [m for m, state in triton.states().items() if m in doors and state == "UNLOADING"]
        now, done = time.monotonic(), triton.work()
        if done - work > WORK:
            worked, work = now, done
        if not running or (all(doors[model] for model in running) and now - worked > QUIET):
            return
        if stop.hurry:
            raise Stopped
        if now > end:
            log(f"{', '.join(running)}: still running after {seconds:g} s, and given up")
            return
        time.sleep(LOOK)
