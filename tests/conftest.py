"""Real servers for the tests: each its own process, on free ports, and nothing left behind."""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import hypothesis
import pytest

from bench import ROOT
from bench.launcher import PATIENCE, SHM, Server

# What the models of every server here share, so that a test can call a network as a stage does.
TOKEN = os.environ.setdefault("MAISI_TOKEN", secrets.token_hex(16))

# A shell's background job has SIGINT ignored, and what the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


# The same examples in every run, and none kept on disk.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None)
hypothesis.settings.load_profile("suite")


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
    server = Server(ROOT / "model_repository", tmp_path_factory.mktemp("server") / "server.log")
    yield server
    server.end()
    assert server.shared_memory() == left_by_clients() == []


def servers(factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def start(repository: Path | None = None, *args: str, ready: bool = True) -> Server:
        log = factory.mktemp("server") / "server.log"
        server = Server(repository or ROOT / "model_repository", log, *args, ready=False)
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
    log = tmp_path_factory.mktemp("official") / "server.log"
    server = Server(official_repository / "models", log)
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
