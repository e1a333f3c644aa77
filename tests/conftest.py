"""Real servers for the tests: each its own process, on free ports, and nothing left behind."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import hypothesis
import psutil
import pytest

# What the models of every server here share, so that a test can call a network as a stage does.
TOKEN = os.environ.setdefault("MAISI_TOKEN", secrets.token_hex(16))
ROOT = Path(__file__).resolve().parent.parent
SHM = Path("/dev/shm")
# Seconds after which a wait counts as a hang, however busy the machine is.
PATIENCE = 120

# A shell's background job has SIGINT ignored, and what the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


# The same examples in every run, and none kept on disk.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None)
hypothesis.settings.load_profile("suite")


class Server:
    """A `python -m server` on free ports; ready when this is made, unless `ready` is false."""

    def __init__(self, folder: Path, repository: Path, *args: str, ready: bool = True):
        self.log_file = folder / "server.log"
        ports = [f"--{name}-port=0" for name in ("grpc", "http", "metrics", "status")]
        command = [sys.executable, "-m", "server", f"--repository={repository}", *ports, *args]
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.pid = self.process.pid
        self.line, self._logged = "", 0
        if ready:
            self.wait_ready()

    def wait_ready(self) -> None:
        self.line = self.process.stdout.readline()
        found = re.fullmatch(
            r"ready: grpc=(\S+) http=(\S+) metrics=(\S+) status=(\S+)"
            r" variants=(\S*) engines=(\S*)\n",
            self.line,
        )
        assert found, f"no ready line but {self.line!r}; log:\n{self.log[-4000:]}"
        self.grpc, self.http, self.metrics = found[1], found[2], found[3]
        self.status = found[4]
        self.variants = found[5].split(",") if found[5] else []

    @property
    def log(self) -> str:
        return self.log_file.read_bytes()[self._logged :].decode()

    def forget_log(self) -> None:
        """Let `log` begin here."""
        self._logged = self.log_file.stat().st_size

    @property
    def triton(self) -> psutil.Process:
        """The tritonserver process."""
        (child,) = psutil.Process(self.pid).children()
        return child

    def stub(self, model: str) -> psutil.Process:
        """Return the Python process that serves `model`."""
        for child in self.triton.children():
            if child.status() == psutil.STATUS_ZOMBIE:
                continue
            if any(f"/{model}/1/" in argument for argument in child.cmdline()):
                return child
        raise LookupError(f"no process serves {model}")

    def shared_memory(self) -> list[str]:
        """Return this server's names in /dev/shm."""
        return [path.name for path in SHM.glob(f"maisi-serve-{self.pid}-*")]

    def stop(self, timeout: float = PATIENCE) -> int:
        """Ask it to stop, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def die(self) -> None:
        """Kill it with all its processes."""
        family = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        for process in family:
            process.kill()
        psutil.wait_procs(family[1:], PATIENCE)
        self.process.wait(PATIENCE)

    def end(self) -> None:
        """Make sure that it is gone, and that it took its shared memory along."""
        if self.process.poll() is None:
            family = psutil.Process(self.pid).children(recursive=True)
            try:
                # Twice: at once, without waiting for requests.
                self.process.send_signal(signal.SIGTERM)
                time.sleep(0.1)
                self.stop()
            except subprocess.TimeoutExpired:
                for process in [psutil.Process(self.pid), *family]:
                    if process.is_running():
                        process.kill()
                raise
        elif self.process.returncode == -signal.SIGKILL:  # its next start would do that
            for name in self.shared_memory():
                (SHM / name).unlink()
        self.process.stdout.close()


def left_by_clients() -> list[str]:
    """Name what clients that have gone left in /dev/shm: whose lock nobody holds."""
    left = []
    for path in SHM.glob("maisi-client-*"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.append(path.name)
    return left


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server of the repository's own models, for every test that only asks it something."""
    server = Server(tmp_path_factory.mktemp("server"), ROOT / "model_repository")
    yield server
    server.end()
    assert server.shared_memory() == left_by_clients() == []


def servers(factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def start(repository: Path | None = None, *args: str, ready: bool = True) -> Server:
        folder = factory.mktemp("server")
        server = Server(folder, repository or ROOT / "model_repository", *args, ready=False)
        made.append(server)
        if ready:
            server.wait_ready()
        return server

    yield start
    for server in made:
        server.end()
    assert [name for server in made for name in server.shared_memory()] == left_by_clients() == []


@pytest.fixture
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Make servers of one's own: `start_server(repository=None, *args, ready=True)`.

    The repository's own models are served when none is given. Servers end with the test.
    """
    yield from servers(tmp_path_factory)


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Make servers that end with the module, like `start_server`."""
    yield from servers(tmp_path_factory)


@pytest.fixture(scope="session")
def official_repository() -> Path:
    """Return a folder with checkpoints and, in `models/`, small variants like the official ones."""
    from tests.export.repository_of_tiny import exported_official

    return Path(exported_official().name)


@pytest.fixture(scope="session")
def official_server(
    official_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Serve them."""
    server = Server(tmp_path_factory.mktemp("official"), official_repository / "models")
    yield server
    server.end()


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait until a condition holds: `eventually(condition)`."""

    def wait(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} s"
            time.sleep(0.1)

    return wait
