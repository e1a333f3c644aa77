"""The settings of a server, and their checks."""

from __future__ import annotations

import math
import os
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from server import host
from server.address import Address
from server.launch import Tls
from server.layout import UNLIMITED, Limits
from server.triton import TOKEN_VARIABLE

TENSORS_VARIABLE = "MAISI_GPU_TENSORS"  # the same as in backends/engines/cuda.py
TRACE_VARIABLE = "MAISI_TRACE_URL"  # the same as in backends/maisi/tracing.py
LONGEST = 1e9  # seconds, about 30 years; sockets accept no infinite time
SHORTEST_TOKEN = 32  # characters, the same as in backends/engines/guard.py


class CannotServe(Exception):
    """The server cannot start, or cannot continue to serve; the message is one sentence."""


@dataclass(frozen=True)
class Settings:
    """The settings of a server; paths exist, times are in seconds.

    `backends` is the folder of our backends; None if `triton` contains them. `gpus` are the numbers
    of the GPUs for networks; None means all. With `bfloat16`, networks compute in it on the CPU.
    `key` is for the protocols in `server.launch.RESTRICTED`; the default is random. `memory_key`
    gives clients of the same user on this machine, which read it from a file, access to shared
    memory; if it is empty, shared memory needs `key`. Spans are sent to `trace_url` by OTLP/HTTP;
    if it is empty, there are none.
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
    bfloat16: bool = False
    trace_url: str = ""


def check_limits(limits: Limits) -> None:
    """Raise CannotServe for a limit below 1, for memory of 0 or less, or for negative disk space.

    0 could mean no limit: Triton treats a queue of 0 as unlimited. 0 bytes of disk are a limit.
    """
    counts = {
        "max-voxels": limits.voxels,
        "max-waiting": limits.waiting,
        "max-seconds": limits.seconds,
    }
    for option, value in counts.items():
        if value is not None and value < 1:
            raise CannotServe(f"--{option}: {value}, but 1 or more is expected.")
    # The conditions are negated, so that NaN is refused.
    if limits.memory_gb is not None and not 0 < limits.memory_gb < math.inf:
        raise CannotServe(f"--memory-gb: {limits.memory_gb:g}, but a number above 0 is expected.")
    if limits.spill_gb is not None and not 0 <= limits.spill_gb < math.inf:
        raise CannotServe(f"--spill-gb: {limits.spill_gb:g}, but a number from 0 on is expected.")


def check_times(start: float, drain: float, stall: float) -> None:
    """Raise CannotServe for times in seconds that cannot be waited for."""
    times = {"start-seconds": start, "stall-seconds": stall, "drain-seconds": drain}
    for option, seconds in times.items():
        # The conditions are negated, so that NaN is refused.
        if not 0 <= seconds <= LONGEST or (seconds == 0 and option != "drain-seconds"):
            least = "from 0 on" if option == "drain-seconds" else "above 0"
            raise CannotServe(
                f"--{option}: {seconds:g}, but a number {least} and up to {LONGEST:g} is expected."
            )


def check_bfloat16(gpu_numbers: Collection[int], processor_has_it: bool) -> None:
    """Raise CannotServe if the networks run on GPUs, or if the processor has no bfloat16."""
    if gpu_numbers:
        numbers = ", ".join(map(str, gpu_numbers))
        raise CannotServe(
            f"--bfloat16: the networks run on GPU {numbers}; --gpus none is expected with it."
        )
    if not processor_has_it:
        raise CannotServe(
            "--bfloat16: this processor has neither avx512_bf16 nor amx_bf16, one of which is"
            " expected."
        )


def trace_url(endpoint: str | None) -> str:
    """Return the URL for spans at an OTLP/HTTP endpoint; empty for None.

    The rule is that for OTEL_EXPORTER_OTLP_ENDPOINT in
    https://opentelemetry.io/docs/specs/otel/protocol/exporter/#endpoint-urls-for-otlphttp. Raises
    CannotServe if the endpoint is not a URL.
    """
    if endpoint is None:
        return ""
    # Triton 2.51 does not support TLS for spans (docs/how-to/operations.md).
    if not re.fullmatch(r"http://[^\s/?#,@]+(/[^\s?#,]*)?", endpoint):
        raise CannotServe(
            f"--trace-endpoint: {endpoint!r}, but http://HOST:PORT of an OTLP/HTTP receiver is"
            " expected."
        )
    return f"{endpoint.rstrip('/')}/v1/traces"


def token() -> str:
    """Return the secret that the models of a server share, from the environment or a new one.

    Raises CannotServe for a secret that is too short.
    """
    secret = os.environ.get(TOKEN_VARIABLE) or secrets.token_hex(16)
    if len(secret) < SHORTEST_TOKEN:
        raise CannotServe(
            f"{TOKEN_VARIABLE}: {len(secret)} characters, but {SHORTEST_TOKEN} or more drawn at"
            " random are expected, or none for a new token at each start."
        )
    return secret


def gpu_tensors() -> str:
    """Return `1` if models may pass tensors on a GPU to each other, else `0`.

    The environment variable decides. Without it, the result is `0` under WSL, which does not have
    CUDA's IPC. Raises CannotServe for any other value of the variable.
    """
    value = os.environ.get(TENSORS_VARIABLE) or ("0" if host.is_wsl() else "1")
    if value not in ("0", "1"):
        raise CannotServe(f"{TENSORS_VARIABLE}: {value!r}, but 0 or 1 is expected.")
    return value
