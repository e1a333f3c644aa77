"""One tritonserver process: how it is started, asked and ended."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tritonclient.grpc as grpc

from server.host import libpython_dir

KEY = "maisi-control"


@dataclass(frozen=True)
class Address:
    """Where a server listens; port 0 stands for any free one."""

    host: str
    grpc: int
    http: int
    metrics: int

    def fixed(self) -> Address:
        """Put a free port in the place of every 0; raises OSError if `host` cannot be had."""
        sockets = [socket.socket() for port in (self.grpc, self.http, self.metrics) if not port]
        for each in sockets:
            each.bind((self.host, 0))
        free = iter([each.getsockname()[1] for each in sockets])
        ports = [port or next(free) for port in (self.grpc, self.http, self.metrics)]
        for each in sockets:
            each.close()
        return Address(self.host, *ports)

    def taken(self) -> list[int]:
        """List the ports that somebody else listens on."""
        busy = []
        for port in (self.grpc, self.http, self.metrics):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.host, port))
                except OSError:
                    busy.append(port)
        return busy


class Triton:
    """A running tritonserver and the control connection to it.

    Only the holder of a random secret may load and unload models: whoever can load a model can
    also run code in the server.
    """

    def __init__(
        self,
        triton: Path,
        backends: Path,
        repository: Path,
        models: list[str],
        address: Address,
        shared_memory: tuple[str, int],
    ) -> None:
        """Start it; returns at once. `shared_memory` is the claimed prefix and its lock."""
        prefix, lock = shared_memory
        secret = secrets.token_hex(16)
        command = [
            str(triton / "bin" / "tritonserver"),
            f"--model-repository={repository}",
            f"--backend-directory={backends}",
            "--disable-auto-complete-config",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in models),
            f"--grpc-address={address.host}",
            f"--http-address={address.host}",
            f"--metrics-address={address.host}",
            f"--grpc-port={address.grpc}",
            f"--http-port={address.http}",
            f"--metrics-port={address.metrics}",
            f"--grpc-restricted-protocol=model-repository:{KEY}={secret}",
            f"--http-restricted-api=model-repository:{KEY}={secret}",
            "--allow-gpu-metrics=false",
            f"--backend-config=python,shm-region-prefix-name={prefix}",
        ]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            stderr=sys.stderr,
            env=environment(),
            pass_fds=[lock],
            start_new_session=True,  # Ctrl-C is for us, not for the models at work
            preexec_fn=end_with_parent,
        )
        host = "127.0.0.1" if address.host == "0.0.0.0" else address.host
        self.client = grpc.InferenceServerClient(f"{host}:{address.grpc}")
        self.headers = {f"triton-grpc-protocol-{KEY}": secret}

    def ready(self) -> bool:
        """Tell whether the server says that it is ready; it may not answer at all yet."""
        try:
            return bool(self.client.is_server_ready(client_timeout=5))
        except grpc.InferenceServerException:
            return False

    def states(self) -> dict[str, str]:
        """Give every model's state: READY, UNLOADING, UNAVAILABLE, LOADING."""
        index = self.client.get_model_repository_index(self.headers, client_timeout=10)
        return {model.name: model.state for model in index.models}

    def config(self, model: str) -> Any:
        """Give a loaded model's configuration as Triton holds it (a protobuf message)."""
        return self.client.get_model_config(model, client_timeout=10).config

    def load(self, model: str) -> None:
        """Load a model and the ensembles that wait for it."""
        self.client.load_model(model, self.headers, client_timeout=300)

    def unload(self, model: str) -> None:
        """Close a model to new requests; those that are running finish."""
        self.client.unload_model(model, self.headers, client_timeout=30)

    def probe(self, model: str, size: list[int]) -> None:
        """Make the variant's smallest volume, in one step; raises what the client raises."""
        inputs = []
        for name, values, kind in (("size", size, np.int32), ("steps", [1], np.int32)):
            tensor = grpc.InferInput(name, [len(values)], "INT32")
            tensor.set_data_from_numpy(np.array(values, kind))
            inputs.append(tensor)
        self.client.infer(model, inputs, client_timeout=300)

    def stubs(self) -> dict[int, str]:
        """Map the process id of every living Python backend process to its model."""
        found = {}
        for child in children(self.process.pid):
            try:
                if child.status() == psutil.STATUS_ZOMBIE:
                    continue
                command = child.cmdline()
            except psutil.Error:
                continue
            # A stub's first argument is the file it serves, REPOSITORY/MODEL/VERSION/FILE.
            if len(command) > 1 and command[0].endswith("triton_python_backend_stub"):
                found[child.pid] = Path(command[1]).parent.parent.name
        return found

    def work(self) -> float:
        """Measure what the models have done so far: answers plus seconds of processor time."""
        statistics = self.client.get_inference_statistics(client_timeout=10).model_stats
        total = float(sum(model.inference_count for model in statistics))
        for pid in self.stubs():
            with suppress(psutil.Error):
                times = psutil.Process(pid).cpu_times()
                total += times.user + times.system
        return total

    def end(self, patience: float) -> None:
        """Ask the server to go, and after `patience` seconds make it go, with all its processes."""
        self.process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.client.close()


def children(pid: int) -> list[psutil.Process]:
    """List the child processes of `pid`; none when it is gone."""
    with suppress(psutil.Error):
        return list(psutil.Process(pid).children())
    return []


def environment() -> dict[str, str]:
    """Give tritonserver this interpreter: Triton's Python backend finds its home by PATH."""
    python = str(Path(sys.executable).parent)
    libraries = [str(libpython_dir()), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        **os.environ,
        "PATH": os.pathsep.join([python, os.environ.get("PATH", "")]),
        "LD_LIBRARY_PATH": os.pathsep.join(part for part in libraries if part),
        "PYTHONUNBUFFERED": "1",
    }


def end_with_parent() -> None:
    """Have the kernel send SIGTERM to the calling process when its parent dies."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def variant_of(config: Any) -> dict[str, Any] | None:
    """Read the `variant` parameter of a model's configuration; None if it has none."""
    if "variant" not in config.parameters:
        return None
    variant: dict[str, Any] = json.loads(config.parameters["variant"].string_value)
    return variant
