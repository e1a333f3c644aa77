"""Real servers for the tests, on free ports; each removes its files."""

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

# The token of every server here, so that a test can call a network as a stage does.
TOKEN = os.environ.setdefault("MAISI_TOKEN", secrets.token_hex(16))

# A proxy for other addresses cannot reach the servers here.
for _name in ("no_proxy", "NO_PROXY"):
    os.environ[_name] = ",".join(filter(None, (os.environ.get(_name), "127.0.0.1,localhost")))

# A shell's background job ignores SIGINT, and child processes would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


# The same examples in every run, and none stored on disk.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None)
hypothesis.settings.load_profile("suite")


def stale_client_files() -> list[str]:
    """Return the files of ended clients in /dev/shm, which nobody locks.

    Wait for other clients and servers, which may be about to lock or to remove such files.
    """
    deadline = time.monotonic() + 20
    while True:
        names = []
        for path in SHM.glob("maisi-client-*"):
            with suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                names.append(path.name)
        if not names or time.monotonic() > deadline:
            return names
        time.sleep(0.1)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server of the repository's own models, for tests that only send requests."""
    server = Server(ROOT / "model_repository", tmp_path_factory.mktemp("server") / "server.log")
    yield server
    server.end()
    assert server.shared_memory() == stale_client_files() == []


def servers(factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(repository: Path | None = None, *args: str, ready: bool = True) -> Server:
        log = factory.mktemp("server") / "server.log"
        server = Server(repository or ROOT / "model_repository", log, *args, ready=False)
        started.append(server)
        if ready:
            server.wait_ready()
        return server

    yield start
    for server in started:
        server.end()
    names = [name for server in started for name in server.shared_memory()]
    assert names == stale_client_files() == []


@pytest.fixture
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start servers: `start_server(repository=None, *args, ready=True)`.

    It serves the repository's own models by default. Servers end with the test.
    """
    yield from servers(tmp_path_factory)


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start servers that end with the module, like `start_server`."""
    yield from servers(tmp_path_factory)


@pytest.fixture(scope="session")
def official_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with checkpoints and, in `models/`, small variants like the official ones."""
    from tests.export.repository_of_tiny import exported_official

    return exported_official(tmp_path_factory)


@pytest.fixture(scope="session")
def official_server(
    official_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Serve the official_repository."""
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
