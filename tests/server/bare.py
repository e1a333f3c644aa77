"""A server with standard streams and a parent of the test's choice."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import tritonclient.grpc as grpc

from tests.conftest import PATIENCE, ROOT, SHM


def left(pid: int) -> list[Path]:
    """Name what the server `pid` has in /dev/shm and among the temporary folders."""
    folders = SHM, Path(tempfile.gettempdir())
    return [path for folder in folders for path in folder.glob(f"maisi-serve-{pid}-*")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Bare:
    """A server of write_repository; `prefix` of its command; `options` of Popen."""

    def __init__(self, repository: Path, prefix: Sequence[str] = (), **options: Any):
        self.grpc = f"127.0.0.1:{free_port()}"
        ports = [f"--{name}-port=0" for name in ("http", "metrics", "status")]
        ports.append(f"--grpc-port={self.grpc.partition(':')[2]}")
        command = [*prefix, sys.executable, "-m", "server", f"--repository={repository}", *ports]
        self.process = subprocess.Popen(command, cwd=ROOT, **options)

    def __enter__(self) -> Bare:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def wait_ready(self) -> int:
        """Wait until it serves; returns the process id of its tritonserver."""
        with grpc.InferenceServerClient(self.grpc) as client:
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline and self.process.poll() is None:
                with suppress(grpc.InferenceServerException):
                    if client.is_model_ready("slow_square"):
                        return psutil.Process(self.process.pid).children()[0].pid
                time.sleep(0.1)
        raise AssertionError(f"not ready within {PATIENCE} s")
