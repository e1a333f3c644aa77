"""A server with other standard streams, or another parent process, than the fixtures'."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import tritonclient.grpc as grpc

from bench.launcher import Server
from tests.conftest import PATIENCE, SHM
from tests.server.ports import free_ports


def files_of(pid: int) -> list[Path]:
    """Return what the server `pid` has in /dev/shm and in the folder for temporary files."""
    folders = SHM, Path(tempfile.gettempdir())
    return [path for folder in folders for path in folder.glob(f"maisi-serve-{pid}-*")]


class Bare(Server):
    """A server of `write_repository`; `options` of Popen set its standard streams and parent."""

    def __init__(self, repository: Path, prefix: Sequence[str] = (), **options: Any):
        (port,), log = free_ports(1), Path(os.devnull)
        super().__init__(
            repository, log, f"--grpc-port={port}", prefix=prefix, ready=False, **options
        )
        self.grpc = f"127.0.0.1:{port}"

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
                        return self.triton.pid
                time.sleep(0.1)
        raise AssertionError(f"not ready within {PATIENCE} s")
