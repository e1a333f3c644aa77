"""One tritonserver process: how it is started, asked and ended."""

from __future__ import annotations

import ctypes
import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import psutil
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from server import gpus, layout, private
from server.address import LOOPBACK, Address

KEY = "maisi-control"  # the name of the header that has the key
# What needs the key: who loads models runs code here, who writes logs fills the disk, and who
# registers shared memory reads that of others. At gRPC that has a key of its own (`Launch`).
MEMORY = "shared-memory"
CLOSED = ("model-repository", MEMORY, "trace", "logging")
# What Triton's HTTP, which knows no TLS, gives without the key where gRPC has TLS: its health.
CLOSED_WITH_TLS = (*CLOSED, "inference", "metadata", "model-config", "statistics")
# How many requests our models work on, and how many wait in Triton's queues.
_RUNNING = re.compile(r"^maisi_requests_running{[^}]*} (\S+)$", re.MULTILINE)
_WAITING = re.compile(
    r"^(?:maisi_requests_waiting|nv_inference_pending_request_count){[^}]*} (\S+)$", re.MULTILINE
)
_FAILED = re.compile(r'^maisi_requests_total{[^}]*outcome="failed"[^}]*} (\S+)$', re.MULTILINE)
_VOXELS = re.compile(r"^maisi_voxels_total{[^}]*} (\S+)$", re.MULTILINE)
_PROGRESS = re.compile(r"^maisi_progress_timestamp_seconds{[^}]*} (\S+)$", re.MULTILINE)
_REGIONS = "systemsharedmemory"
SILENCE = 300  # seconds of a gRPC connection after which its client is pinged
TOKEN_VARIABLE = "MAISI_TOKEN"  # as backends/engines/guard.py has it


class Refused(Exception):
    """Triton refused, or does not answer; the message is its sentence."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """Keep the HTTP status of the answer, None where there was no answer."""
        super().__init__(message)
        self.answered = status is not None
        self.unavailable = status == HTTPStatus.SERVICE_UNAVAILABLE  # Triton's UNAVAILABLE


@dataclass(frozen=True)
class Smallest:
    """The smallest volume of a variant: its sides, and a label for a mask; None: it takes none."""

    size: tuple[int, int, int]
    label: int | None

    @classmethod
    def of(cls, config: Mapping[str, Any], variant: Mapping[str, Any]) -> Smallest:
        """Read it out of an ensemble's configuration and its `variant`."""
        masks = any(tensor["name"] == "mask" for tensor in config["input"])
        x, y, z = variant["size"]["min"]
        return cls((x, y, z), min(int(i) for i in variant["labels"] if i != "0") if masks else None)


@dataclass(frozen=True)
class Activity:
    """What the models say of their work.

    `running`: requests that they work on, our own left out; `waiting`: those in a queue, our own
    included; `progress`: when work last went on, in seconds since the epoch; `voxels` that were
    made; `failed`: requests that ended so.
    """

    running: float
    waiting: float
    progress: float
    voxels: float
    failed: float

    @property
    def busy(self) -> bool:
        """Whether requests run or wait."""
        return self.running + self.waiting > 0


@dataclass(frozen=True)
class Tls:
    """PEM files: the server's certificate and key and, for mTLS, who signs those of clients."""

    certificate: Path
    key: Path
    clients: Path | None


@dataclass(frozen=True)
class Launch:
    """What tritonserver is started with; `version` of the models, none: the newest.

    `memory_key` opens shared memory alone, by gRPC. `gpus`: the numbers of those whose memory
    passes between models.
    """

    home: Path
    laid: layout.Laid
    models: list[str]
    address: Address
    key: str
    memory_key: str
    tls: Tls | None = None
    version: int | None = None
    gpus: tuple[int, ...] = ()


class Triton:
    """A running tritonserver and the control connection to it, HTTP on this computer.

    Only who has the key may do what `CLOSED` names.
    """

    def __init__(self, launch: Launch, prefix: str, locks: Sequence[int], state: Mapping[str, str]):
        """Start it; returns at once. `prefix` of its names in shared memory.

        `locks`: descriptors that it holds while it lives. `state`: variables of the environment
        that the models read.
        """
        self.prefix, self._locks = prefix, locks
        self._command = [
            *command(launch),
            f"--backend-config=python,shm-region-prefix-name={self.prefix}",
        ]
        self._laid, self._state = launch.laid, state
        self.probe_id = probe_id(state[TOKEN_VARIABLE])
        self.process = self.start()
        host = launch.address.near
        self._http, self._metrics = (LOOPBACK, launch.address.http), (host, launch.address.metrics)
        self._key = launch.key

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process, again where there was one; the caller has ended that."""
        self.process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=2,  # our log; sys.stderr is None where it was closed
            stderr=2,
            env={**environment(self._laid), **self._state},
            pass_fds=self._locks,
            restore_signals=False,  # SIGPIPE stays ignored: a log that nobody reads ends nothing
            start_new_session=True,  # Ctrl-C is for us, not for the models at work
            preexec_fn=before_start,
            umask=private.UMASK,
        )
        return self.process

    def _ask(
        self,
        path: str,
        body: Any = None,
        timeout: float = 10,
        tensors: bytes = b"",
        at: tuple[str, int] | None = None,
    ) -> bytes:
        """Return the answer to a POST of JSON, and of `tensors` behind it, or to a GET.

        `at`: host and port, those of Triton's HTTP by default; no proxy is used, whatever the
        environment names. Raises Refused, also for an answer that breaks off or is no HTTP.
        """
        head = b"" if body is None else json.dumps(body).encode()
        headers = {KEY: self._key}
        if tensors:
            headers["Inference-Header-Content-Length"] = str(len(head))
        connection = HTTPConnection(*(at or self._http), timeout=timeout)
        try:
            connection.request("POST" if head else "GET", path, head + tensors or None, headers)
            answer = connection.getresponse()
            if answer.length is None and not answer.chunked:  # it may have lost its end
                raise HTTPException("the answer has no length")
            content = answer.read()
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise Refused(f"no answer: {reason}") from None
        finally:
            connection.close()
        if answer.status != HTTPStatus.OK:
            text = content.decode(errors="replace")
            with suppress(ValueError, KeyError, TypeError):
                text = json.loads(text)["error"]
            raise Refused(text or f"HTTP status {answer.status}", answer.status)
        return content

    def _ask_json(self, path: str, body: Any = None) -> Any:
        try:
            return json.loads(self._ask(path, body))
        except (ValueError, RecursionError):
            raise Refused(f"no answer: {path} is expected to be JSON and is not") from None

    def ready(self) -> bool:
        """Tell whether the server says that it is ready; it may not answer at all yet."""
        try:
            self._ask("/v2/health/ready", timeout=5)
        except Refused:
            return False
        return True

    def states(self) -> dict[str, str]:
        """Give every model's state: READY, UNLOADING, UNAVAILABLE, LOADING."""
        index = self._ask_json("/v2/repository/index", {})
        return {model["name"]: model.get("state", "") for model in index}

    def config(self, model: str) -> dict[str, Any]:
        """Give a loaded model's configuration as Triton holds it."""
        found: dict[str, Any] = self._ask_json(f"/v2/models/{model}/config")
        return found

    def load(self, model: str) -> None:
        """Load a model and the ensembles that wait for it."""
        self._ask(f"/v2/repository/models/{model}/load", {}, 300)

    def unload(self, model: str) -> None:
        """Close a model to new requests; those that are running finish."""
        self._ask(f"/v2/repository/models/{model}/unload", {}, 30)

    def regions(self) -> list[str]:
        """Name the shared memory that clients have registered."""
        return [one["name"] for one in self._ask_json(f"/v2/{_REGIONS}/status")]

    def unregister(self, region: str) -> bool:
        """Forget shared memory of a client; False where a request still uses it."""
        try:
            self._ask(f"/v2/{_REGIONS}/region/{quote(region, safe='')}/unregister", {})
        except Refused:
            return False
        return True

    def probe(self, model: str, smallest: Smallest, seconds: float) -> None:
        """Make the variant's smallest volumes in one step, from a mask, too; raises Refused."""
        steps = {"steps": np.ones(1, np.int32)}
        self._infer(model, {"size": np.array(smallest.size, np.int32), **steps}, seconds)
        if smallest.label is not None:
            mask = np.full(smallest.size, smallest.label, np.uint8)
            self._infer(model, {"mask": mask, **steps}, seconds)

    def call_without_token(self, config: Mapping[str, Any], seconds: float) -> None:
        """Send a network zeros of the smallest shapes, as a stranger might; raises Refused."""
        tensors = {
            tensor["name"]: np.zeros(
                [max(1, int(side)) for side in tensor["dims"]],
                triton_to_np_dtype(tensor["data_type"].removeprefix("TYPE_")),
            )
            for tensor in config["input"]
        }
        self._infer(config["name"], tensors, seconds)

    def _infer(self, model: str, tensors: Mapping[str, Any], seconds: float) -> None:
        inputs = [
            {
                "name": name,
                "shape": array.shape,
                "datatype": np_to_triton_dtype(array.dtype),
                "parameters": {"binary_data_size": array.nbytes},
            }
            for name, array in tensors.items()
        ]
        binary = {"binary_data_output": True}  # nobody reads the volume, so it need not be text
        body = {"id": self.probe_id, "inputs": inputs, "parameters": binary}
        raw = b"".join(array.tobytes() for array in tensors.values())
        self._ask(f"/v2/models/{model}/infer", body, seconds, raw)

    def metrics(self) -> str:
        """Give the metrics of Triton and of our models, as Prometheus reads them."""
        return self._ask("/metrics", at=self._metrics).decode(errors="replace")

    def activity(self) -> Activity:
        """Tell what the models say of their work."""
        text = self.metrics()
        running, waiting, voxels, failed = (
            sum(map(float, pattern.findall(text)))
            for pattern in (_RUNNING, _WAITING, _VOXELS, _FAILED)
        )
        progress = max(map(float, _PROGRESS.findall(text)), default=0.0)
        return Activity(running, waiting, progress, voxels, failed)

    def busy(self) -> bool:
        """Tell whether requests run or wait."""
        return self.activity().busy

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
        statistics = self._ask_json("/v2/models/stats")["model_stats"]
        total = float(sum(int(model["inference_count"]) for model in statistics))
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


def command(launch: Launch) -> list[str]:
    """Give the command line of tritonserver."""
    address, tls = launch.address, launch.tls
    six = ":" in address.host
    closed = ",".join(CLOSED_WITH_TLS if tls else CLOSED)
    kept = [protocol for protocol in CLOSED if protocol != MEMORY]
    words = [
        str(launch.home / "bin" / "tritonserver"),
        f"--model-repository={launch.laid.models}",
        f"--backend-directory={launch.laid.backends}",
        "--disable-auto-complete-config",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in launch.models),
        f"--grpc-address={f'[{address.host}]' if six else address.host}",
        f"--http-address={LOOPBACK}",
        f"--metrics-address={'ipv6:' if six else ''}{address.host}",
        f"--grpc-port={address.grpc}",
        f"--http-port={address.http}",
        f"--metrics-port={address.metrics}",
        f"--grpc-restricted-protocol={','.join(kept)}:{KEY}={launch.key}",
        f"--grpc-restricted-protocol={MEMORY}:{KEY}={launch.memory_key}",
        f"--http-restricted-api={closed}:{KEY}={launch.key}",
        "--allow-gpu-metrics=false",
        # Messages kept for reuse keep the room of the largest answer that each ever had.
        "--grpc-infer-allocation-pool-size=0",
        # A client that vanished without a word, or that never answers a ping, goes after this and
        # 20 s: without it after two hours, and never where it asked for nothing.
        f"--grpc-keepalive-time={1000 * SILENCE}",
        "--grpc-keepalive-permit-without-calls=1",
    ]
    if launch.version is not None:
        words.append(f"--model-config-name={launch.version}")
    if launch.gpus:
        size = gpus.pool(launch.laid.models, launch.models)
        words += [f"--cuda-memory-pool-byte-size={number}:{size}" for number in launch.gpus]
    if tls is not None:
        words += [
            "--grpc-use-ssl=true",
            f"--grpc-server-cert={tls.certificate}",
            f"--grpc-server-key={tls.key}",
        ]
    if tls is not None and tls.clients is not None:
        words += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={tls.clients}"]
    return words


def children(pid: int) -> list[psutil.Process]:
    """List the child processes of `pid`; none when it is gone."""
    with suppress(psutil.Error):
        return list(psutil.Process(pid).children())
    return []


def environment(laid: layout.Laid) -> dict[str, str]:
    """Give tritonserver its malloc, and this interpreter: the Python backend finds it by PATH."""
    libraries = [str(laid.libraries), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(laid.programs), os.environ.get("PATH", "")]),
        "LD_LIBRARY_PATH": os.pathsep.join(part for part in libraries if part),
        "PYTHONUNBUFFERED": "1",
        **layout.MALLOC,
    }


def before_start() -> None:
    """Have the kernel end this process with its parent (SIGTERM), and keep its memory private."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    private.ignore_open_modes()


def probe_id(token: str) -> str:
    """Return the id of our own requests, by which the models know them; no client can guess it."""
    digest = hmac.new(token.encode(errors="surrogatepass"), b"probe", hashlib.sha256)
    return f"probe-{digest.hexdigest()}"  # as backends/engines/guard.py has it


def variant_of(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read the `variant` parameter of a model's configuration; None if it has none."""
    parameter = config.get("parameters", {}).get("variant")
    if parameter is None:
        return None
    variant: dict[str, Any] = json.loads(parameter["string_value"])
    return variant
