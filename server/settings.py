"""What to serve and how, and the checks of it."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from server import host
from server.address import Address
from server.launch import Tls
from server.layout import UNLIMITED, Limits
from server.triton import TOKEN_VARIABLE

TENSORS_VARIABLE = "MAISI_GPU_TENSORS"  # as backends/engines/cuda.py has it
TRACE_VARIABLE = "MAISI_TRACE_URL"  # as backends/maisi/tracing.py has it
SHORTEST_TOKEN = 32  # characters, as backends/engines/guard.py has it


class CannotServe(Exception):
    """The server cannot start, or cannot serve any more; the message is one sentence."""


@dataclass(frozen=True)
class Settings:
    """What to serve and how; paths exist, times are in seconds.

    `backends`: the folder of ours; None where `triton` has them among its own. `gpus`: numbers of
    those that networks are placed on; None: all. `key`: for what `server.launch.RESTRICTED` lists;
    the default is random. `memory_key` opens shared memory to clients of our own user on
    this machine, who read it from a file; empty: shared memory needs `key`. `trace_url` takes
    spans by OTLP/HTTP; empty: nothing is traced.
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
    trace_url: str = ""


def check_limits(limits: Limits) -> None:
    """Raise CannotServe for a limit below 1, or for memory or disk below what can be used.

    0 would be no limit in places: Triton takes a queue of 0 for an endless one. A disk of 0 bytes
    is a limit.
    """
    counts = {
        "max-voxels": limits.voxels,
        "max-waiting": limits.waiting,
        "max-seconds": limits.seconds,
    }
    for option, value in counts.items():
        if value is not None and value < 1:
            raise CannotServe(f"--{option}: {value}, but 1 or more is expected.")
    # Written so that NaN fails.
    if limits.memory_gb is not None and not limits.memory_gb > 0:
        raise CannotServe(f"--memory-gb: {limits.memory_gb:g}, but more than 0 is expected.")
    if limits.spill_gb is not None and not limits.spill_gb >= 0:
        raise CannotServe(f"--spill-gb: {limits.spill_gb:g}, but 0 or more is expected.")


def trace_url(endpoint: str | None) -> str:
    """Return the URL that takes spans at an endpoint of OTLP/HTTP, empty for None.

    As https://opentelemetry.io/docs/specs/otel/protocol/exporter/#endpoint-urls-for-otlphttp makes
    it of OTEL_EXPORTER_OTLP_ENDPOINT. Raises CannotServe for what is no URL.
    """
    if endpoint is None:
        return ""
    # Triton 2.51 has no TLS here (docs/how-to/operations.md).
    if not re.fullmatch(r"http://[^\s/?#,@]+(/[^\s?#,]*)?", endpoint):
        raise CannotServe(
            f"--trace-endpoint: {endpoint!r}, but http://HOST:PORT of an OTLP/HTTP receiver is"
            " expected."
        )
    return f"{endpoint.rstrip('/')}/v1/traces"


def token() -> str:
    """Return the secret that the models of a server share: the environment's, or a new one.

    Raises CannotServe for one that is so short that it can be guessed.
    """
    secret = os.environ.get(TOKEN_VARIABLE) or secrets.token_hex(16)
    if len(secret) < SHORTEST_TOKEN:
        raise CannotServe(
            f"{TOKEN_VARIABLE}: {len(secret)} characters, but {SHORTEST_TOKEN} or more drawn at"
            " random are expected, or none for a new token at each start."
        )
    return secret


def gpu_tensors() -> str:
    """Return 1 where models may hand tensors on a GPU to each other, else 0.

    The environment's value, else 0 under WSL, which lacks CUDA's IPC. Raises CannotServe for
    another value.
    """
    value = os.environ.get(TENSORS_VARIABLE) or ("0" if host.is_wsl() else "1")
    if value not in ("0", "1"):
        raise CannotServe(f"{TENSORS_VARIABLE}: {value!r}, but 0 or 1 is expected.")
    return value
