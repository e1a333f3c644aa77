"""The command line: `python -m server`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from server import host

ROOT = Path(__file__).resolve().parent.parent


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="serve", description="Serve a model repository with Triton, without Docker or GPU."
    )
    parser.add_argument(
        "--repository", type=Path, default=ROOT / "model_repository", help="folder of the models"
    )
    parser.add_argument("--models", nargs="+", default=[], metavar="VARIANT", help="default: all")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 opens it to the network")
    parser.add_argument("--grpc-port", type=int, default=8001, help="0 takes a free port")
    parser.add_argument("--http-port", type=int, default=8000, help="0 takes a free port")
    parser.add_argument("--metrics-port", type=int, default=8002, help="0 takes a free port")
    parser.add_argument(
        "--start-seconds", type=float, default=300, help="how long the models may take to load"
    )
    parser.add_argument(
        "--drain-seconds", type=float, default=300, help="how long a stop waits for requests"
    )
    return parser.parse_args()


def main() -> int:
    """Serve until told to stop; returns the exit status."""
    options = arguments()
    facts = host.inspect()
    problem = host.refusal(facts)
    if problem or facts.triton is None:
        print(f"serve: {problem}", file=sys.stderr)
        return 2

    # Only now: these need what the check has just found.
    from server.layout import model_names
    from server.supervisor import ServerError, Settings, serve
    from server.triton import Address

    address = Address(options.host, options.grpc_port, options.http_port, options.metrics_port)
    try:
        serve(
            Settings(
                facts.triton,
                ROOT / "backends",
                options.repository.resolve(),
                model_names(options.repository, options.models),
                address,
                options.start_seconds,
                options.drain_seconds,
            )
        )
    except (ServerError, ValueError) as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
