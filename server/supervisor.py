"""Supervise a tritonserver from its start until the last request has been answered."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server import engine_report, gpus, host, layout, recovery, shared_memory, temporary
from server.address import Address, joined
from server.control import ControlError
from server.drain import FILE_VARIABLE, Stop, Stopped, drain
from server.health import Health
from server.launch import Launch
from server.log import log, write_line
from server.settings import (
    TENSORS_VARIABLE,
    TRACE_VARIABLE,
    CannotServe,
    Settings,
    check_bfloat16,
    check_limits,
    check_times,
    gpu_tensors,
    token,
)
from server.startup import check_networks, wait_until_ready
from server.status_port import StatusPort
from server.triton import TOKEN_VARIABLE, Triton

EXIT = 5.0  # seconds until an idle tritonserver is killed; open streams prevent its end


def serve(settings: Settings) -> None:
    """Serve until a signal, then drain and return; a second signal ends the drain.

    Raises CannotServe if the server does not start or ends by itself.
    """
    stop = Stop()
    stop.install()
    with settings.address.reserved() as address, running(settings, address) as (triton, folder):
        try:
            variants = wait_until_ready(triton, settings, stop)
            check_networks(triton, variants, settings.start_seconds, stop)
            health = Health(triton, variants, settings.stall_seconds)
            status_port = StatusPort(health, address, tls=settings.tls is not None)
            stubs = triton.stubs()
            write_line(sys.stdout, ready_line(triton, address, list(variants)))
            while reason := recovery.watch(triton, stubs, health, stop):
                stubs = start_again(triton, settings, health, stop, reason)
            health.stopping = True
            log("stopping: running requests finish first (a second signal stops at once)")
            if late := drain(triton, settings.drain_seconds, stopping_file(folder), stop):
                log(f"{late}: still running after {settings.drain_seconds:g} s; ending it")
            status_port.stop()
        except Stopped:
            log("stopped at once")
        except ControlError as error:
            raise CannotServe(f"tritonserver no longer answers: {error}.") from None
        finally:
            triton.end(0.0 if stop.immediate else EXIT)


def ready_line(triton: Triton, address: Address, variants: list[str]) -> str:
    """Return the ready line, which has the addresses; log a warning about unused GPUs."""
    metrics = triton.control.metrics()
    for reason in engine_report.unused_gpus(metrics):
        log(f"warning: {reason}")
    listeners = " ".join(f"{name}={joined(*at)}" for name, at in address.listeners.items())
    engines = engine_report.engines(metrics, variants)
    return f"ready: {listeners} variants={','.join(variants)} engines={engines}"


def stopping_file(folder: Path) -> Path:
    """Return the path of the file with the deadline of running requests."""
    return folder / "stopping"


@contextmanager
def running(settings: Settings, address: Address) -> Iterator[tuple[Triton, Path]]:
    """Start tritonserver in a temporary folder; at the end, remove all its files."""
    check_limits(settings.limits)
    check_times(settings.start_seconds, settings.drain_seconds, settings.stall_seconds)
    service = os.environ.get("OTEL_SERVICE_NAME") or "maisi"
    state = {
        TOKEN_VARIABLE: token(),
        TENSORS_VARIABLE: gpu_tensors(),
        TRACE_VARIABLE: settings.trace_url,
        "OTEL_SERVICE_NAME": service,
    }
    gpus.check(settings.gpus or ())
    gpu_numbers = gpus.select(settings.gpus)
    # With a single GPU, let Triton choose: it does not use a GPU that is too old.
    network_gpus = settings.gpus if len(gpu_numbers) < 2 else gpu_numbers
    if network_gpus == ():
        layout.expect_no_plans(settings.repository, settings.models, settings.version)
    if settings.bfloat16:
        check_bfloat16(gpu_numbers, host.has_bfloat16())
    shared_memory.sweep_clients()
    if count := shared_memory.sweep_servers():
        log(f"removed {count} shared memory regions of a dead server")
    prefix, prefix_lock = shared_memory.claim()
    try:
        if settings.memory_key:
            shared_memory.publish_key(prefix, address.grpc, settings.memory_key)
        with temporary.folder(prefix.rstrip("-")) as (folder, folder_lock):
            folders = layout.lay_out(
                settings.triton,
                settings.backends,
                settings.repository,
                settings.limits,
                network_gpus,
                folder,
                settings.bfloat16,
            )
            launch = Launch(
                settings.triton,
                folders,
                settings.models,
                address,
                settings.key,
                settings.memory_key or settings.key,
                settings.tls,
                settings.version,
                gpu_numbers if state[TENSORS_VARIABLE] == "1" else (),
                settings.trace_url,
                service,
            )
            state[FILE_VARIABLE] = str(stopping_file(folder))
            yield Triton(launch, prefix, (prefix_lock, folder_lock), state), folder
    finally:
        shared_memory.remove(prefix)
        shared_memory.sweep_clients()


def start_again(
    triton: Triton, settings: Settings, health: Health, stop: Stop, reason: str
) -> dict[int, str]:
    """Restart tritonserver at the same ports; return the models by process id.

    `reason` is for the log. All connections end, so every client gets an error and sends its
    request again. Raises CannotServe or Stopped as `wait_until_ready` does.
    """
    log(f"{reason}; starting tritonserver again")
    start = time.monotonic()
    health.loading = "tritonserver"
    health.restarts["tritonserver"] += 1
    triton.restart()
    health.variants = wait_until_ready(triton, settings, stop)
    health.recovered()
    stubs = triton.stubs()
    log(f"tritonserver serves again after {time.monotonic() - start:.1f} s")
    return stubs
