"""Run a server in which faults are caused, and check that it recovers."""

from __future__ import annotations

import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import psutil
from maisi_client import Client, Progress

from bench import ROOT, servers
from bench.launcher import Server

SMALL = (48, 48, 48)
_LARGEST_ERROR = 400  # largest number of characters in an error sentence
_TELLTALE = re.compile(r"Traceback|File \"")


class Wrong(Exception):
    """A fault had a wrong outcome; the message is one sentence."""


class Unable(Exception):
    """This machine does not allow a fault; the message is one sentence."""


class FaultTarget:
    """A server of the variant mini on free ports, and a client.

    `prefix` is a command that runs the server's command. `models` has the names of the models that
    have a process. `sha256` is the digest of the volume of the good request. `deaths` is the number
    of processes of models that died in requests since tritonserver started.
    """

    def __init__(self, folder: Path, prefix: Sequence[str] = ()) -> None:
        """Start the server and send the good request for the first time."""
        self.folder, self.prefix = folder, prefix
        self.mask = folder / "mask.nii.gz"
        nib.save(servers.picture(SMALL), self.mask)
        self._pool = ThreadPoolExecutor(8)
        self._stack = ExitStack()
        self.start()
        self.models = sorted(self.server.stubs())
        self.sha256 = self.good()

    def start(self) -> None:
        """Start the server; stop the previous server, if there is one."""
        self._stack.close()
        self.deaths = 0
        self.log = self.folder / "server.log"
        repository = ROOT / "model_repository"
        server = Server(repository, self.log, "--models=mini", prefix=self.prefix)
        self.server = self._stack.enter_context(server)
        # A restart of tritonserver on a busy machine takes several retries.
        self.client = self._stack.enter_context(Client(self.server.grpc, timeout=300, retries=12))

    def close(self) -> None:
        """Stop the server at once."""
        self.server.end()
        self._stack.close()
        self._pool.shutdown()

    # Requests.

    def good(self, **arguments: Any) -> str:
        """Send the good request through the stream; return the digest of its volume."""
        request = {"steps": 4, "seed": 11, **arguments}
        digest: str = self.client.generate(self.mask, **request).report["sha256"]["image"]
        return digest

    def ensemble(self, size: tuple[int, int, int] = SMALL) -> Any:
        """Send the good request with tritonclient; return the image, int16 `[X, Y, Z]`."""
        request = {"mask": servers.picture(size), "steps": 4, "seed": 11, "spacing": 2.0}
        return servers.ensemble(self.server.grpc, request, 120)

    def later(self, ask: Callable[[], Any]) -> Future[Any]:
        """Call `ask` in a thread; return its future."""
        return self._pool.submit(ask)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep the server busy with a long request during the block."""
        with closing(self.client.stream(size=SMALL, steps=900)) as events:
            for event in events:
                if isinstance(event, Progress) and event.stage == "sampler":
                    break
            yield

    # State.

    @property
    def shm(self) -> Path:
        """The /dev/shm that the server sees."""
        return Path(f"/proc/{self.server.pid}/root/dev/shm")

    def regions(self) -> set[str]:
        """Return the names of the server's files in /dev/shm."""
        return set(self.server.shared_memory(self.shm))

    def gauge(self, name: str, **labels: str) -> float:
        """Return the sum of a metric over all series that have the labels."""
        with urllib.request.urlopen(f"http://{self.server.metrics}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        texts = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith(f"{name}{{") and all(text in line for text in texts)
        )

    def at_work(self) -> float:
        """Return the number of requests that run or wait."""
        return sum(self.gauge(f"maisi_requests_{kind}") for kind in ("running", "waiting"))

    def done(self, model: str) -> int:
        """Return the number of requests that a model has answered."""
        return servers.statistics(self.server.grpc)[model].answered

    def ready(self) -> bool:
        """Return whether `/ready` answers 200."""
        with suppress(OSError, urllib.error.URLError):
            where = f"http://{self.server.status}/ready"
            with urllib.request.urlopen(where, timeout=60) as answer:
                return bool(answer.status == 200)
        return False

    def serves(self) -> bool:
        """Return whether every model has a running process and the server is ready."""
        try:
            return sorted(self.server.stubs()) == self.models and self.ready()
        except (LookupError, psutil.Error):  # tritonserver restarts
            return False

    def check_recovered(self) -> None:
        """Raise Wrong if processes, readiness, bytes or /dev/shm differ from before the fault."""
        until(self.serves, 60, "all models serve")
        if self.good() != self.sha256:
            raise Wrong("the same request returns different bytes")
        # There is a marker, the key for clients, and a region for each model. Triton 2.51 keeps the
        # region of a process that died in a request until tritonserver ends.
        allowed = len(self.models) + 2 + self.deaths
        until(lambda: len(self.regions()) <= allowed, 60, "/dev/shm has no more files than before")
        until(lambda: not self.at_work(), 60, "no request runs or waits")


def until(holds: Callable[[], object], seconds: float, what: str) -> float:
    """Wait until `holds` returns true; return the seconds of the wait.

    Raises Wrong after `seconds`; `what` describes the condition in words.
    """
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            raise Wrong(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)
    return time.monotonic() - began


def checked_sentence(message: object) -> str:
    """Return an error message; raise Wrong if it is not a sentence without internals."""
    text = str(message).strip()
    if not text or "\n" in text or len(text) > _LARGEST_ERROR or _TELLTALE.search(text):
        raise Wrong(f"not one sentence: {text[:_LARGEST_ERROR]!r}")
    return text


def in_mount_namespace(mount: str) -> list[str]:
    """Return a command prefix that runs the shell command `mount` in a new mount namespace.

    Raises Unable if mount namespaces are not allowed.
    """
    commands = [["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]]
    for command in commands[os.getuid() != 0 :]:
        words = [*command, "sh", "-c", f'{mount} && exec "$@"', "sh"]
        with suppress(OSError):
            if subprocess.run([*words, "true"], capture_output=True).returncode == 0:
                return words
    raise Unable("this machine does not allow mount namespaces")
