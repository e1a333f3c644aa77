"""A running server to do something bad to, and whether it is whole again afterwards."""

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
_LARGEST_ERROR = 400  # characters of what a caller is told, at the most
_TELLTALE = re.compile(r"Traceback|File \"")


class Wrong(Exception):
    """What must not come of a fault; one sentence."""


class Unable(Exception):
    """This machine cannot do that; one sentence."""


class Scene:
    """A server of the mini variant, on free ports, and a client.

    `under`: the beginning of a command that becomes the server. `models`: those with a process of
    their own. `sha256`: the digest of the good request's volume. `deaths`: of models' processes in
    requests, since tritonserver started.
    """

    def __init__(self, folder: Path, under: Sequence[str] = ()) -> None:
        """Start it, and ask the good request for the first time."""
        self.folder, self.under = folder, under
        self.mask = folder / "mask.nii.gz"
        nib.save(servers.picture(SMALL), self.mask)
        self._pool = ThreadPoolExecutor(8)
        self._stack = ExitStack()
        self.start()
        self.models = sorted(self.server.stubs())
        self.sha256 = self.good()

    def start(self) -> None:
        """Start the server, again where it has ended."""
        self._stack.close()
        self.deaths = 0
        self.log = self.folder / "server.log"
        repository = ROOT / "model_repository"
        server = Server(repository, self.log, "--models=mini", prefix=self.under)
        self.server = self._stack.enter_context(server)
        # As many attempts as a start of tritonserver takes on a busy machine.
        self.client = self._stack.enter_context(Client(self.server.grpc, timeout=300, retries=12))

    def close(self) -> None:
        """Stop it."""
        self._stack.close()
        self._pool.shutdown()

    # What it is asked.

    def good(self, **more: Any) -> str:
        """Ask the good request, through the stream; return the digest of its volume."""
        asked = {"steps": 4, "seed": 11, **more}
        found: str = self.client.generate(self.mask, **asked).report["sha256"]["image"]
        return found

    def ensemble(self, size: tuple[int, int, int] = SMALL) -> Any:
        """Ask the good request as any KServe client does; return the image [X, Y, Z]."""
        asked = {"mask": servers.picture(size), "steps": 4, "seed": 11, "spacing": 2.0}
        return servers.ensemble(self.server.grpc, asked, 120)

    def later(self, ask: Callable[[], Any]) -> Future[Any]:
        """Ask in a thread."""
        return self._pool.submit(ask)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Have the server work on a long request of somebody else's within."""
        with closing(self.client.stream(size=SMALL, steps=900)) as events:
            for event in events:
                if isinstance(event, Progress) and event.stage == "sampler":
                    break
            yield

    # What is known of it.

    @property
    def shm(self) -> Path:
        """The /dev/shm that the server sees."""
        return Path(f"/proc/{self.server.pid}/root/dev/shm")

    def regions(self) -> set[str]:
        """Name the server's files in /dev/shm."""
        return set(self.server.shared_memory(self.shm))

    def gauge(self, name: str, **labels: str) -> float:
        """Add up a metric, over whatever labels are not given."""
        with urllib.request.urlopen(f"http://{self.server.metrics}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith(f"{name}{{") and all(each in line for each in wanted)
        )

    def at_work(self) -> float:
        """Count the requests that run or wait."""
        return sum(self.gauge(f"maisi_requests_{kind}") for kind in ("running", "waiting"))

    def done(self, model: str) -> int:
        """Count what a model has answered."""
        return servers.statistics(self.server.grpc)[model].answered

    def ready(self) -> bool:
        """Ask as Kubernetes does."""
        with suppress(OSError, urllib.error.URLError):
            where = f"http://{self.server.status}/ready"
            with urllib.request.urlopen(where, timeout=60) as answer:
                return bool(answer.status == 200)
        return False

    def serves(self) -> bool:
        """Tell whether tritonserver and every model has a living process, and all is ready."""
        try:
            return sorted(self.server.stubs()) == self.models and self.ready()
        except (LookupError, psutil.Error):  # it starts again
            return False

    def whole(self) -> None:
        """Raise Wrong where the server is not as before: processes, readiness, bytes, /dev/shm."""
        until(self.serves, 60, "all models serve")
        if self.good() != self.sha256:
            raise Wrong("the same request gives other bytes")
        # The marker, the key for clients, and a region for each model. Triton 2.51 keeps that of a
        # process which died in a request, while it lives.
        allowed = len(self.models) + 2 + self.deaths
        until(lambda: len(self.regions()) <= allowed, 60, "/dev/shm is as before")
        until(lambda: not self.at_work(), 60, "nothing is at work")


def until(holds: Callable[[], object], seconds: float, what: str) -> float:
    """Wait until something holds; return for how long. Raises Wrong after so many seconds."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            raise Wrong(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)
    return time.monotonic() - began


def sentence(told: object) -> str:
    """Return what a caller was told; raises Wrong where that is not one sentence for a person."""
    text = str(told).strip()
    if not text or "\n" in text or len(text) > _LARGEST_ERROR or _TELLTALE.search(text):
        raise Wrong(f"not one sentence: {text[:_LARGEST_ERROR]!r}")
    return text


def private(mount: str) -> list[str]:
    """Begin a command with a mount namespace of its own, in which a shell's `mount` came first.

    Raises Unable where that is not allowed.
    """
    ways = [["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]]
    for way in ways[os.getuid() != 0 :]:
        words = [*way, "sh", "-c", f'{mount} && exec "$@"', "sh"]
        with suppress(OSError):
            if subprocess.run([*words, "true"], capture_output=True).returncode == 0:
                return words
    raise Unable("mount namespaces are not allowed here")
