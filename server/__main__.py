"""The command line: `python -m server`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from server import host

if TYPE_CHECKING:
    from server.launch import Tls

ROOT = Path(__file__).resolve().parent.parent


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    return parser().parse_args(words)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=os.environ.get("MAISI_PROGRAM", "serve"),
        description="Serve a model repository with Triton, without Docker.",
    )
    parser.add_argument(
        "--repository",
        type=Path,
        default=Path(os.environ.get("MAISI_MODELS") or ROOT / "model_repository"),
        help="folder of the models (default: %(default)s)",
    )
    parser.add_argument(
        "--triton",
        type=Path,
        metavar="FOLDER",
        help="folder of a Triton that has our backends (docker/Dockerfile); default: that of PyPI",
    )
    parser.add_argument(
        "--models", nargs="+", default=[], metavar="VARIANT", help="variants to serve; default: all"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0 or :: opens all ports but HTTP to the network",
    )
    parser.add_argument("--grpc-port", type=int, default=8001, help="port of gRPC; 0: a free port")
    parser.add_argument("--http-port", type=int, default=8000, help="port of HTTP; 0: a free port")
    parser.add_argument(
        "--metrics-port", type=int, default=8002, help="port of Triton's metrics; 0: a free port"
    )
    parser.add_argument(
        "--status-port",
        type=int,
        default=8003,
        help="port of /live, /ready and /metrics; 0: a free port",
    )
    parser.add_argument(
        "--start-seconds", type=float, default=300, help="limit of the time to load the models"
    )
    parser.add_argument(
        "--drain-seconds",
        type=float,
        default=300,
        help="limit of the time that a stop waits for requests",
    )
    parser.add_argument(
        "--stall-seconds",
        type=float,
        default=1800,
        help="seconds without progress of any request after which /ready fails",
    )
    parser.add_argument(
        "--version",
        type=int,
        metavar="N",
        help="version of the models (docs/how-to/operations.md); default: the newest",
    )
    parser.add_argument(
        "--max-voxels",
        type=int,
        metavar="N",
        help="limit of the voxels of a volume; default: that of the variant",
    )
    parser.add_argument(
        "--max-waiting", type=int, metavar="N", help="limit of the requests in a queue"
    )
    parser.add_argument(
        "--max-seconds",
        type=int,
        metavar="N",
        help="limit of the seconds of a request, with waiting; default: a day",
    )
    parser.add_argument(
        "--memory-gb",
        type=float,
        metavar="N",
        help="memory of the decoder; default: half of the free memory, on a GPU 85 %%",
    )
    parser.add_argument(
        "--spill-gb",
        type=float,
        metavar="N",
        help="disk space of the decoder; default: half of the free space",
    )
    parser.add_argument(
        "--gpus",
        metavar="N,N",
        help="numbers of the GPUs, each of which gets every network; none: the CPU; default: all",
    )
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="compute in bfloat16 on a CPU that has it: faster, less exact"
        " (docs/explanation/precision.md)",
    )
    parser.add_argument(
        "--trace-endpoint",
        metavar="URL",
        help="http://HOST:PORT of an OTLP/HTTP receiver, which gets the spans of requests that have"
        " a traceparent; default: no traces",
    )
    add = parser.add_argument_group("security (docs/how-to/operations.md)").add_argument
    add(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="file with the operator's key, 16 or more of A-Z, a-z, 0-9, _ and -. Clients with the"
        " key may load models, set logs and traces, and register shared memory; without this option"
        " nobody may, except that this user's clients on this machine may register shared memory",
    )
    add(
        "--tls-certificate",
        type=Path,
        metavar="PEM",
        help="certificate of the server; gRPC then uses TLS",
    )
    add("--tls-key", type=Path, metavar="PEM", help="key of the certificate")
    add("--tls-clients", type=Path, metavar="PEM", help="mTLS: CA of the clients' certificates")
    return parser


def main() -> int:
    """Serve until a signal; return the exit status."""
    # Handle SIGTERM until the server has its own handler. Without a handler, the kernel does not
    # deliver SIGTERM to process 1 of a container.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    open_standard_streams()
    options = arguments()
    computer = host.inspect()
    triton = options.triton or computer.triton
    backends = None if options.triton else ROOT / "backends"
    problem = host.unfit(computer) if options.triton else host.refusal(computer)
    if problem or triton is None:
        print(f"serve: {problem}", file=sys.stderr)
        return 2

    # Import these after the check, because they import packages that it checks.
    from server import gpus
    from server.address import Address
    from server.layout import Limits, model_names
    from server.settings import CannotServe, Settings, trace_url
    from server.supervisor import serve

    ports = (options.grpc_port, options.http_port, options.metrics_port, options.status_port)
    try:
        settings = Settings(
            triton,
            backends,
            options.repository.resolve(),
            model_names(options.repository, options.models, options.version),
            Address(options.host, *ports),
            options.start_seconds,
            options.drain_seconds,
            options.stall_seconds,
            tls=tls(options),
            version=options.version,
            limits=Limits(
                options.max_voxels,
                options.max_waiting,
                options.max_seconds,
                options.memory_gb,
                options.spill_gb,
            ),
            bfloat16=options.bfloat16,
            gpus=None if options.gpus is None else gpus.parse(options.gpus),
            trace_url=trace_url(options.trace_endpoint),
        )
        if options.key_file is not None:
            settings = dataclasses.replace(
                settings, key=operator_key(options.key_file), memory_key=""
            )
        serve(settings)
    except OSError as error:
        name = error.filename2 or error.filename or "The server"
        print(f"serve: {name}: {error.strerror or error}.", file=sys.stderr)
        return 1
    except (CannotServe, ValueError) as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1
    return 0


def open_standard_streams() -> None:
    """Open the descriptors 0 to 2 if they are closed, so that no other file gets them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def operator_key(path: Path) -> str:
    """Return the operator's key from its file; raises ValueError with one sentence."""
    try:
        text = path.read_text(errors="replace").strip()
    except OSError as error:
        raise ValueError(f"--key-file: {path} cannot be read: {error.strerror}.") from None
    if not re.fullmatch(r"[A-Za-z0-9_-]{16,}", text):
        raise ValueError(f"--key-file: {path} must have 16 or more of A-Z, a-z, 0-9, _ and -.")
    return text


def tls(options: argparse.Namespace) -> Tls | None:
    """Return the files of TLS; None if no option names one.

    Raises ValueError for an incomplete set of options or an unreadable file.
    """
    from server.launch import Tls

    certificate, secret, clients = options.tls_certificate, options.tls_key, options.tls_clients
    if certificate is None and secret is None and clients is None:
        return None
    if certificate is None or secret is None:
        raise ValueError("--tls-certificate and --tls-key must be given together, also for mTLS.")
    for path in (certificate, secret, clients):
        if path is not None and not os.access(path, os.R_OK):
            raise ValueError(f"TLS: {path} cannot be read.")
    return Tls(certificate, secret, clients)


if __name__ == "__main__":
    sys.exit(main())
