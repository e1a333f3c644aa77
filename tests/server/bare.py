"""A server with standard streams and a parent of the test's choice."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import tritonclient.grpc as grpc

from bench.launcher import Server
from tests.conftest import PATIENCE, SHM


def left(pid: int) -> list[Path]:
    """Name what the server `pid` has in /dev/shm and among the temporary folders."""
    folders = SHM, Path(tempfile.gettempdir())
    return [path for folder in folders for path in folder.glob(f"maisi-serve-{pid}-*")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Bare(Server):
    """A server of write_repository with standard streams and a parent as Popen's `options` say."""

    def __init__(self, repository: Path, prefix: Sequence[str] = (), **options: Any):
        port, log = free_port(), Path(os.devnull)
        super().__init__(
            repository, log, f"--grpc-port={port}", prefix=prefix, ready=False, **options
        )
        self.grpc = f"127.0.0.1:{port}"

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
                        return self.triton.pid
                time.sleep(0.1)
        raise AssertionError(f"not ready within {PATIENCE} s")
