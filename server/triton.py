"""Start, list and end the processes of tritonserver and its models."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from server import region_modes, shared_memory
from server.control import Control, probe_id
from server.launch import Launch, command, environment

TOKEN_VARIABLE = "MAISI_TOKEN"  # the same as in backends/engines/guard.py
_SET_PARENT_DEATH_SIGNAL = 1  # of prctl, linux/prctl.h


class Triton:
    """A running tritonserver, and its control connection `control`."""

    def __init__(self, launch: Launch, prefix: str, locks: Sequence[int], state: Mapping[str, str]):
        """Start the process, without waiting until it is ready.

        `prefix` is the prefix of its names in shared memory. `locks` are descriptors that it
        inherits and keeps open. `state` has environment variables that the models read.
        """
        self.prefix, self._locks = prefix, locks
        self._command = [
            *command(launch),
            f"--backend-config=python,shm-region-prefix-name={self.prefix}",
        ]
        self._folders, self._state = launch.folders, state
        self.control = Control(launch.address, launch.key, probe_id(state[TOKEN_VARIABLE]))
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process; an earlier process must have ended."""
        self.process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=2,  # our log; sys.stderr is None if it was closed
            stderr=2,
            env={**environment(self._folders), **self._state},
            pass_fds=self._locks,
            restore_signals=False,  # keep SIGPIPE ignored: a closed log must not end it
            start_new_session=True,  # Ctrl-C goes to this process, not to working models
            preexec_fn=before_start,
            umask=region_modes.UMASK,
        )
        return self.process

    def restart(self) -> None:
        """Kill the remaining processes, remove their files in /dev/shm, and start again."""
        self.end(0.0)
        shared_memory.remove_regions(self.prefix)
        shared_memory.sweep_clients()
        self.start()

    def stubs(self) -> dict[int, str]:
        """Return the model of each living process of a Python backend, by process id."""
        models = {}
        for child in children(self.process.pid):
            try:
                if child.status() == psutil.STATUS_ZOMBIE:
                    continue
                words = child.cmdline()
            except psutil.Error:
                continue
            # The first argument of a stub is its file, REPOSITORY/MODEL/VERSION/FILE.
            if len(words) > 1 and words[0].endswith("triton_python_backend_stub"):
                models[child.pid] = Path(words[1]).parent.parent.name
        return models

    def work(self) -> float:
        """Return a measure of the models' work: answers plus seconds of processor time."""
        total = float(self.control.inference_count())
        for pid in self.stubs():
            with suppress(psutil.Error):
                times = psutil.Process(pid).cpu_times()
                total += times.user + times.system
        return total

    def end(self, seconds: float) -> None:
        """Send SIGTERM, and after `seconds` kill the remaining processes of tritonserver."""
        self.process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def children(pid: int) -> list[psutil.Process]:
    """Return the child processes of `pid`; none if it has ended."""
    with suppress(psutil.Error):
        return list(psutil.Process(pid).children())
    return []


def before_start() -> None:
    """Let the kernel send SIGTERM when the parent ends, and keep shared memory private."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    region_modes.ignore_open_modes()
