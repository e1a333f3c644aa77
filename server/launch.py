"""The command line and the environment of tritonserver."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from server import gpus, layout
from server.address import LOOPBACK, Address

KEY_HEADER = "maisi-control"
# What needs the key: who loads models runs code here, who writes logs fills the disk, and who
# registers shared memory reads that of others. At gRPC that has a key of its own (`Launch`).
MEMORY = "shared-memory"
RESTRICTED = ("model-repository", MEMORY, "trace", "logging")
# Triton's HTTP has no TLS. Where gRPC has TLS, HTTP gives nothing but its health without the key.
RESTRICTED_WITH_TLS = (*RESTRICTED, "inference", "metadata", "model-config", "statistics")
# Header of W3C's Trace Context, which models get as a parameter of the request.
TRACE_HEADER = "^(?i)traceparent$"
SILENCE = 300  # seconds without a message on a gRPC connection until the client is pinged


@dataclass(frozen=True)
class Tls:
    """PEM files: the server's certificate and key and, for mTLS, the CA of the clients."""

    certificate: Path
    key: Path
    clients: Path | None


@dataclass(frozen=True)
class Launch:
    """The settings of a tritonserver process.

    `key` gives access to `RESTRICTED`. `memory_key` gives access to shared memory only, by gRPC.
    `version` is the version of the models; None is the newest. `gpus` are the numbers of the GPUs
    with memory for tensors between models. Spans are sent to `trace_url`, with the name `service`;
    if it is empty, there are none.
    """

    home: Path
    folders: layout.Folders
    models: list[str]
    address: Address
    key: str
    memory_key: str
    tls: Tls | None = None
    version: int | None = None
    gpus: tuple[int, ...] = ()
    trace_url: str = ""
    service: str = "maisi"


def command(launch: Launch) -> list[str]:
    """Return the command line of tritonserver."""
    address, tls = launch.address, launch.tls
    is_ipv6 = ":" in address.host
    http_apis = ",".join(RESTRICTED_WITH_TLS if tls else RESTRICTED)
    grpc_protocols = ",".join(protocol for protocol in RESTRICTED if protocol != MEMORY)
    words = [
        str(launch.home / "bin" / "tritonserver"),
        f"--model-repository={launch.folders.models}",
        f"--backend-directory={launch.folders.backends}",
        "--disable-auto-complete-config",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in launch.models),
        f"--grpc-address={f'[{address.host}]' if is_ipv6 else address.host}",
        f"--http-address={LOOPBACK}",
        f"--metrics-address={'ipv6:' if is_ipv6 else ''}{address.host}",
        f"--grpc-port={address.grpc}",
        f"--http-port={address.http}",
        f"--metrics-port={address.metrics}",
        f"--grpc-restricted-protocol={grpc_protocols}:{KEY_HEADER}={launch.key}",
        f"--grpc-restricted-protocol={MEMORY}:{KEY_HEADER}={launch.memory_key}",
        f"--http-restricted-api={http_apis}:{KEY_HEADER}={launch.key}",
        "--allow-gpu-metrics=false",
        # Pooled messages keep the memory of their largest answer.
        "--grpc-infer-allocation-pool-size=0",
        # A lost client's connection is closed after this time and 20 s. Without the option, that
        # takes two hours, and never happens for a client without a request.
        f"--grpc-keepalive-time={1000 * SILENCE}",
        "--grpc-keepalive-permit-without-calls=1",
        f"--grpc-header-forward-pattern={TRACE_HEADER}",
        f"--http-header-forward-pattern={TRACE_HEADER}",
    ]
    if launch.trace_url:
        words += [f"--trace-config={setting}" for setting in _trace_settings(launch)]
    if launch.version is not None:
        words.append(f"--model-config-name={launch.version}")
    if launch.gpus:
        pool_bytes = gpus.pool_bytes(launch.folders.models, launch.models)
        words += [f"--cuda-memory-pool-byte-size={number}:{pool_bytes}" for number in launch.gpus]
    if tls is not None:
        words += [
            "--grpc-use-ssl=true",
            f"--grpc-server-cert={tls.certificate}",
            f"--grpc-server-key={tls.key}",
        ]
    if tls is not None and tls.clients is not None:
        words += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={tls.clients}"]
    return words


def _trace_settings(launch: Launch) -> list[str]:
    return [
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        "rate=0",  # only requests with a `traceparent` are traced
        f"opentelemetry,url={launch.trace_url}",
        f"opentelemetry,resource=service.name={launch.service}",
    ]


def environment(folders: layout.Folders) -> dict[str, str]:
    """Return tritonserver's environment: settings of malloc, and a PATH with this interpreter."""
    libraries = [str(folders.libraries), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(folders.programs), os.environ.get("PATH", "")]),
        "LD_LIBRARY_PATH": os.pathsep.join(path for path in libraries if path),
        "PYTHONUNBUFFERED": "1",
        **layout.MALLOC,
    }
