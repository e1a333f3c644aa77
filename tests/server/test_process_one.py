"""The server as process 1 of a container: signals end it, and it reaps orphans."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time

import psutil
import pytest

from server.recovery import reap
from tests.conftest import PATIENCE, ROOT
from tests.server.bare import Bare
from tests.server.tiny import write_repository

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
UNSHARE = ["unshare", "--user", "--map-root-user", "--pid", "--mount-proc", "--fork"]


def can_unshare():
    return subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0


def zombies(process):
    return [child for child in process.children() if child.status() == psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("role", ["process 1", pytest.param("subreaper", marks=pytest.mark.slow)])
def test_orphans_are_collected_and_triton_is_not(tmp_path, eventually, role):
    log = tmp_path / "log"
    prefix = [*UNSHARE, "--kill-child"] if role == "process 1" else []
    if prefix and not can_unshare():
        pytest.skip("no namespaces of processes here")

    def collect_orphans():
        ctypes.CDLL(None).prctl(SUBREAPER, 1)

    with (
        log.open("w") as file,
        Bare(
            write_repository(tmp_path / "models"),
            prefix,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            preexec_fn=None if prefix else collect_orphans,
        ) as bare,
    ):
        assert bare.process.stdout.readline().startswith("ready: ")
        server = psutil.Process(bare.process.pid)
        server = server.children()[0] if prefix else server
        (triton,) = server.children()
        models = len(triton.children())
        assert models > 2
        triton.kill()
        eventually(lambda: "tritonserver serves again" in log.read_text())
        assert "tritonserver ended by itself with status -9" in log.read_text()
        eventually(lambda: not zombies(server))
        assert len(server.children()[0].children()) == models
        server.send_signal(signal.SIGTERM)
        assert bare.process.wait(PATIENCE) == 0
        bare.process.stdout.close()


def test_a_process_of_ours_keeps_its_status():
    own = subprocess.Popen(["sh", "-c", "exit 7"])
    others = [subprocess.Popen(["true"]) for _ in range(3)]
    deadline = time.monotonic() + PATIENCE
    while len(zombies(psutil.Process())) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    reap(own.pid)
    assert own.wait() == 7
    reap(0)
    assert not {zombie.pid for zombie in zombies(psutil.Process())} & {
        process.pid for process in others
    }
    reap(0)  # without children


@pytest.mark.skipif(not can_unshare(), reason="no namespaces of processes here")
def test_sigterm_ends_it_before_it_serves():
    """SIGTERM is handled from before the import of numpy and others on, which takes a second."""
    code = (
        "import os, signal, sys, server.host;"
        "server.host.inspect = lambda: os.kill(1, signal.SIGTERM) or print('alive', flush=True);"
        "import server.__main__ as main; sys.argv = ['serve']; print(os.getpid()); main.main()"
    )
    command = [*UNSHARE, sys.executable, "-c", code]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert (process.stdout, process.returncode) == ("1\n", 143)
