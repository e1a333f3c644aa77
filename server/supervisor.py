"""Watches over one tritonserver: from its start until the last request has left."""

from __future__ import annotations

import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from server import layout, status
from server.layout import UNLIMITED, Limits
from server.status import Health
from server.stopping import FILE_VARIABLE, LOOK, Stop, Stopped, drain
from server.triton import Address, Launch, Refused, Tls, Triton, variant_of

RETRIES = 5  # attempts to load a model whose process died, with pauses of 1, 2, 4, ... seconds
EXIT = 5.0  # seconds an idle tritonserver gets to go; open, idle streams keep it from going


class ServerError(Exception):
    """The server cannot go on; the message is one sentence for its operator."""


@dataclass(frozen=True)
class Settings:
    """What to serve and how; paths exist, times in seconds.

    `backends` has ours; none where `triton` has them among its own. `key` is what an operator shows
    to load models and the like; nobody knows the default one. `memory_key` opens shared memory to
    clients of our own user on this machine, who find it there; without one, `key` does, to nobody.
    """

    triton: Path
    backends: Path | None
    repository: Path
    models: list[str]
    address: Address
    start_seconds: float
    drain_seconds: float
    stall_seconds: float = 1800.0
    key: str = field(default_factory=lambda: secrets.token_hex(16))
    memory_key: str = field(default_factory=lambda: secrets.token_hex(16))
    tls: Tls | None = None
    version: int | None = None
    limits: Limits = UNLIMITED


def log(message: str) -> None:
    """Write one line for the operator, between Triton's own lines."""
    print(f"serve: {message}", file=sys.stderr, flush=True)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return; a second signal returns at once.

    Raises ServerError when the server does not start or ends by itself.
    """
    stop = Stop()
    with running(settings) as (triton, address, folder):
        try:
            variants = wait_until_ready(triton, settings, stop)
            health = Health(
                triton, variants, settings.stall_seconds, address if settings.tls else None
            )
            answering = status.serving(health, address)
            places = zip(("grpc", "http", "metrics", "status"), address.ports, strict=True)
            listed = " ".join(f"{name}={address.host}:{port}" for name, port in places)
            print(f"ready: {listed} variants={','.join(variants)}", flush=True)
            watch(triton, health, stop)
            health.stopping = True
            log("stopping: running requests finish first (a second signal stops at once)")
            if late := drain(triton, settings.drain_seconds, stopping_file(folder), stop):
                log(f"{late}: still running after {settings.drain_seconds:g} s, and given up")
            answering.shutdown()
            answering.server_close()
        except Stopped:
            log("stopped at once")
        except Refused as error:
            raise ServerError(f"tritonserver does not answer any more: {error}.") from None
        finally:
            triton.end(0.0 if stop.hurry else EXIT)


def stopping_file(folder: Path) -> Path:
    """Name the file whose content tells the models until when they may work."""
    return folder / "stopping"


@contextmanager
def running(settings: Settings) -> Iterator[tuple[Triton, Address, Path]]:
    """Start tritonserver in a folder of its own, and leave nothing of it behind."""
    layout.sweep_clients([], lambda name: True)
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
            " --grpc-port, --http-port, --metrics-port and --status-port others (0 takes a free"
            " one)."
        )
    shared_memory = layout.claim_shared_memory()
    try:
        if settings.memory_key:
            layout.open_door(shared_memory[0], address.grpc, settings.memory_key)
        with tempfile.TemporaryDirectory(prefix="maisi-serve-") as name:
            folder = Path(name)
            backends = settings.triton / "backends"
            if settings.backends is not None:
                backends = folder / "backends"  # the name of the package that ours are in
                layout.lay_backends(settings.triton, settings.backends, backends)
            repository = settings.repository
            if settings.limits != UNLIMITED:
                repository = folder / "models"
                layout.lay_models(settings.repository, settings.limits, repository)
            launch = Launch(
                settings.triton,
                backends,
                repository,
                settings.models,
                address,
                settings.key,
                settings.memory_key or settings.key,
                settings.tls,
                settings.version,
            )
            state = {FILE_VARIABLE: str(stopping_file(folder))}
            yield Triton(launch, shared_memory, state), address, folder
    finally:
        layout.remove_shared_memory(shared_memory[0])
        layout.sweep_clients([], lambda name: True)


def wait_until_ready(triton: Triton, settings: Settings, stop: Stop) -> dict[str, list[int]]:
    """Wait for the server, then for one tiny volume of every variant.

    Returns variant -> its smallest size. Raises ServerError when that does not come in
    `start_seconds`, Stopped when asked to stop.
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
    variants = {}
    for model, state in sorted(triton.states().items()):
        config = triton.config(model) if state == "READY" else {}
        if "ensemble_scheduling" not in config or (variant := variant_of(config)) is None:
            continue
        try:
            triton.probe(model, variant["size"]["min"], settings.start_seconds)
        except Refused as error:
            raise ServerError(f"{model} loaded but cannot compute: {error}") from None
        variants[model] = variant["size"]["min"]
    return variants


def watch(triton: Triton, health: Health, stop: Stop) -> None:
    """Bring back models whose process died, and forget dead clients, until asked to stop.

    Raises ServerError when tritonserver itself ended.
    """
    known = triton.stubs()
    while not stop.event.wait(LOOK):
        if (status := triton.process.poll()) is not None:
            raise ServerError(f"tritonserver ended by itself with status {status}.")
        alive = triton.stubs()
        dead = {known[pid] for pid in known.keys() - alive.keys()}
        for model in sorted(dead):
            health.loading = model
            health.restarts[model] += 1
            revive(triton, model, stop)
            health.loading = ""
        known = triton.stubs() if dead else alive
        with suppress(Refused):  # too busy to say
            layout.sweep_clients(triton.regions(), triton.unregister)


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
        except Refused as error:
            log(f"{model} did not load: {error}")
            if stop.event.wait(2.0**attempt):
                return
        else:
            log(f"{model} serves again after {time.monotonic() - started:.1f} s")
            return
    raise ServerError(f"{model} died and did not load again in {RETRIES} attempts.")
