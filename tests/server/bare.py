"""A server with other standard streams, or another parent process, than the fixtures'."""

from __future__ import annotations

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
from tests.server.ports import free_ports


def files_of(pid: int) -> list[Path]:
    """Return what the server `pid` has in /dev/shm and in the folder for temporary files."""
    folders = SHM, Path(tempfile.gettempdir())
    return [path for folder in folders for path in folder.glob(f"maisi-serve-{pid}-*")]


class Bare:
    """A server of `write_repository`, with a `prefix` of its command and `options` of Popen."""

    def __init__(self, repository: Path, prefix: Sequence[str] = (), **options: Any):
        self.grpc = f"127.0.0.1:{free_ports(1)[0]}"
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
        """Wait until it serves; return the process id of its tritonserver."""
        with grpc.InferenceServerClient(self.grpc) as client:
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline and self.process.poll() is None:
                with suppress(grpc.InferenceServerException):
                    if client.is_model_ready("slow_square"):
                        return psutil.Process(self.process.pid).children()[0].pid
                time.sleep(0.1)
        raise AssertionError(f"not ready within {PATIENCE} s")
