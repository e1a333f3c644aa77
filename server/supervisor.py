"""Watches over one tritonserver: from its start until the last request has left."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server import engines, gpus, healing, host, layout, private, temporary
from server.address import Address, joined
from server.healing import log, say
from server.layout import UNLIMITED, Limits
from server.status import Health
from server.status_port import StatusPort
from server.stopping import FILE_VARIABLE, Stop, Stopped, drain
from server.triton import (
    TOKEN_VARIABLE,
    Launch,
    Refused,
    Smallest,
    Tls,
    Triton,
    variant_of,
)

TENSORS_VARIABLE = "MAISI_GPU_TENSORS"  # as backends/engines/cuda.py has it
SHORTEST_TOKEN = 32  # characters, as backends/engines/guard.py has it
CALL = 10.0  # seconds for the answer of a network that should refuse at once
UNHEALTHY = 20.0  # seconds a process may seem dead before it is believed
RETRY = 0.5  # seconds between two attempts at a first volume
EXIT = 5.0  # seconds an idle tritonserver gets to go; open, idle streams keep it from going


class ServerError(Exception):
    """The server cannot go on; the message is one sentence for its operator."""


@dataclass(frozen=True)
class Settings:
    """What to serve and how; paths exist, times in seconds.

    `backends` has ours; none where `triton` has them among its own. `gpus`: numbers of those that
    networks are placed on, None: as Triton does. `key` is what an operator shows
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
    gpus: tuple[int, ...] | None = None


def serve(settings: Settings) -> None:
    """Serve until a signal asks to stop, then drain and return; a second one returns at once.

    Raises ServerError when the server does not start or ends by itself.
    """
    stop = Stop()
    with running(settings) as (triton, address, folder):
        try:
            variants = wait_until_ready(triton, settings, stop)
            check_networks(triton, variants, settings.start_seconds, stop)
            health = Health(
                triton, variants, settings.stall_seconds, address if settings.tls else None
            )
            status_port = StatusPort(health, address)
            listeners = address.listeners.items()
            listed = " ".join(f"{name}={joined(*at)}" for name, at in listeners)
            known = triton.stubs()
            metrics = triton.metrics()
            for sentence in engines.unused(metrics):
                log(f"warning: {sentence}")
            on = engines.listed(metrics, list(variants))
            say(sys.stdout, f"ready: {listed} variants={','.join(variants)} engines={on}")
            while reason := healing.watch(triton, known, health, stop):
                known = start_again(triton, settings, health, stop, reason)
            health.stopping = True
            log("stopping: running requests finish first (a second signal stops at once)")
            if late := drain(triton, settings.drain_seconds, stopping_file(folder), stop):
                log(f"{late}: still running after {settings.drain_seconds:g} s, and given up")
            status_port.stop()
        except Stopped:
            log("stopped at once")
        except Refused as error:
            raise ServerError(f"tritonserver does not answer any more: {error}.") from None
        finally:
            triton.end(0.0 if stop.hurry else EXIT)


def check_limits(limits: Limits) -> None:
    """Raise ServerError for a limit that would be none, as Triton takes a queue of 0 for endless.

    A limit of 0 files is one.
    """
    least = {
        "max-voxels": limits.voxels,
        "max-waiting": limits.waiting,
        "max-seconds": limits.seconds,
    }
    for option, value in least.items():
        if value is not None and value < 1:
            raise ServerError(f"--{option}: {value}, but 1 or more is expected.")
    # Written so that NaN fails.
    if limits.memory_gb is not None and not limits.memory_gb > 0:
        raise ServerError(f"--memory-gb: {limits.memory_gb:g}, but more than 0 is expected.")
    if limits.spill_gb is not None and not limits.spill_gb >= 0:
        raise ServerError(f"--spill-gb: {limits.spill_gb:g}, but 0 or more is expected.")


def token() -> str:
    """Return the secret that the models of a server share: the environment's, or a new one.

    Raises ServerError for one that is so short that it can be guessed.
    """
    secret = os.environ.get(TOKEN_VARIABLE) or secrets.token_hex(16)
    if len(secret) < SHORTEST_TOKEN:
        raise ServerError(
            f"{TOKEN_VARIABLE}: {len(secret)} characters, but {SHORTEST_TOKEN} or more drawn at"
            " random are expected, or none for a new token at each start."
        )
    return secret


def gpu_tensors() -> str:
    """Return 1 where models may hand tensors on a GPU to each other, else 0.

    The environment says so, or the system: WSL lacks what that needs, CUDA's IPC. Raises
    ServerError for another value.
    """
    value = os.environ.get(TENSORS_VARIABLE) or ("0" if host.is_wsl() else "1")
    if value not in ("0", "1"):
        raise ServerError(f"{TENSORS_VARIABLE}: {value!r}, but 0 or 1 is expected.")
    return value


def stopping_file(folder: Path) -> Path:
    """Name the file whose content tells the models until when they may work."""
    return folder / "stopping"


@contextmanager
def running(settings: Settings) -> Iterator[tuple[Triton, Address, Path]]:
    """Start tritonserver in a folder of its own, and leave nothing of it behind."""
    check_limits(settings.limits)
    state = {TOKEN_VARIABLE: token(), TENSORS_VARIABLE: gpu_tensors()}
    gpus.expect(settings.gpus or ())
    on_gpus = gpus.used(settings.gpus)
    # A single one that is too old Triton leaves out by itself.
    placed = settings.gpus if len(on_gpus) < 2 else on_gpus
    layout.sweep_clients()
    if left := layout.sweep_shared_memory():
        log(f"removed {left} shared memory regions that a dead server had left")
    address = settings.address.fixed()
    shared_memory = layout.claim_shared_memory()
    try:
        if settings.memory_key:
            layout.publish_key(shared_memory[0], address.grpc, settings.memory_key)
        with temporary.folder(shared_memory[0].rstrip("-")) as (folder, in_use):
            laid = layout.lay(
                settings.triton,
                settings.backends,
                settings.repository,
                settings.limits,
                placed,
                folder,
            )
            launch = Launch(
                settings.triton,
                laid,
                settings.models,
                address,
                settings.key,
                settings.memory_key or settings.key,
                settings.tls,
                settings.version,
                on_gpus if state[TENSORS_VARIABLE] == "1" else (),
            )
            state[FILE_VARIABLE] = str(stopping_file(folder))
            locks = (shared_memory[1], in_use)
            yield Triton(launch, shared_memory[0], locks, state), address, folder
    finally:
        layout.remove_shared_memory(shared_memory[0])
        layout.sweep_clients()


def wait_until_ready(triton: Triton, settings: Settings, stop: Stop) -> dict[str, Smallest]:
    """Wait for the server, then for the smallest volumes of every variant.

    Returns variant -> its smallest volume. Raises ServerError when that does not come in
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
    private.close_regions(triton.prefix)
    variants = {}
    configs = {
        model: triton.config(model)
        for model, state in sorted(triton.states().items())
        if state == "READY"
    }
    for model, config in configs.items():
        if "ensemble_scheduling" not in config or (variant := variant_of(config)) is None:
            continue
        if unguarded := [name for name in configs if anyone_may_call(configs[name], model)]:
            raise ServerError(
                f"{', '.join(unguarded)}: built for an earlier version of this server, and would"
                f" compute for whoever calls; build {model} again (python -m export build)."
            )
        variants[model] = Smallest.of(config, variant)
        make_first(triton, model, variants[model], settings.start_seconds, stop)
    return variants


def make_first(triton: Triton, model: str, smallest: Smallest, seconds: float, stop: Stop) -> None:
    """Make a variant's smallest volumes, again and again while the server is overloaded.

    Clients may be there before: where their requests leave no room within `seconds`, but do run,
    `Health` decides. Raises ServerError where a volume cannot be made, Stopped when asked to stop.
    """
    begin = time.monotonic()
    end = begin + seconds
    while True:
        try:
            triton.probe(model, smallest, max(end - time.monotonic(), 1.0))
            return
        except Refused as error:
            # On a busy machine Triton takes a living process for a dead one for a while.
            unhealthy = "is not healthy" in str(error) and time.monotonic() < begin + UNHEALTHY
            failed = error.answered and not (error.unavailable or unhealthy)
            late = time.monotonic() > end
            if failed or ((late or not error.answered) and not works(triton)):
                raise ServerError(f"{model} loaded but cannot compute: {error}") from None
            if late:
                log(f"{model} works for others, and left no room for a volume of our own: {error}")
                return
        if stop.event.wait(RETRY):
            raise Stopped


def works(triton: Triton) -> bool:
    """Tell whether the server works on requests of others; False where it does not say."""
    try:
        return triton.activity().running > 0
    except Refused:
        return False


def anyone_may_call(config: Mapping[str, Any], variant: str) -> bool:
    """Tell whether a model is a network of the variant that does not ask who calls it."""
    runs = config.get("backend") or config.get("platform")
    return (
        config["name"].startswith(f"{variant}.")
        and runs in ("onnxruntime", "slabs", "tensorrt_rtx", "tensorrt", "tensorrt_plan")
        and "network" not in config.get("parameters", {})
    )


def check_networks(triton: Triton, variants: Iterable[str], seconds: float, stop: Stop) -> None:
    """Call every network of the variants without the token, which it has to refuse.

    What its configuration says does not show who runs it. Raises ServerError for a network that
    computes, or does not refuse within `seconds`, Stopped when asked to stop.
    """
    end = time.monotonic() + seconds
    for model, state in sorted(triton.states().items()):
        variant = model.partition(".")[0]
        if state != "READY" or variant not in variants:
            continue
        config = triton.config(model)
        if "network" not in config.get("parameters", {}):
            continue
        while (said := _said_to_strangers(triton, config)) is None and time.monotonic() < end:
            if stop.event.wait(RETRY):
                raise Stopped
        if said is None or f"only the stages of {variant} call it" not in said:
            raise ServerError(
                f"{model}: computes for whoever calls it, or did not refuse a call without the"
                " token; serve it by this project's backends."
            )


def _said_to_strangers(triton: Triton, config: Mapping[str, Any]) -> str | None:
    """Return what a network answers without the token, empty for tensors; None: it had no time."""
    try:
        triton.call_without_token(config, CALL)
    except Refused as error:
        return str(error) if error.answered and not error.unavailable else None
    return ""


def start_again(
    triton: Triton, settings: Settings, health: Health, stop: Stop, reason: str
) -> dict[int, str]:
    """Start tritonserver once more, at the same ports, after `reason`.

    Returns its models' processes. Connections break, so that every client is told, and sends again
    what it lost. Raises ServerError or Stopped as `wait_until_ready` does.
    """
    log(f"{reason}; starting tritonserver again")
    started = time.monotonic()
    health.loading = "tritonserver"
    health.restarts["tritonserver"] += 1
    triton.end(0.0)
    layout.remove_regions(triton.prefix)
    layout.sweep_clients()
    triton.start()
    health.variants = wait_until_ready(triton, settings, stop)
    health.healed()
    known = triton.stubs()
    log(f"tritonserver serves again after {time.monotonic() - started:.1f} s")
    return known
