"""The process tritonserver and those of its models: started, counted and ended."""

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

TOKEN_VARIABLE = "MAISI_TOKEN"  # as backends/engines/guard.py has it
_SET_PARENT_DEATH_SIGNAL = 1  # of prctl, linux/prctl.h


class Triton:
    """A running tritonserver, and in `control` the connection to it."""

    def __init__(self, launch: Launch, prefix: str, locks: Sequence[int], state: Mapping[str, str]):
        """Start it, without waiting until it is ready.

        `prefix` of its names in shared memory. `locks`: descriptors that it holds while it lives.
        `state`: variables of the environment that the models read.
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
        """Start the process; a process that ran before has to have ended."""
        self.process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=2,  # our log; sys.stderr is None where it was closed
            stderr=2,
            env={**environment(self._folders), **self._state},
            pass_fds=self._locks,
            restore_signals=False,  # SIGPIPE stays ignored: a log that nobody reads ends nothing
            start_new_session=True,  # Ctrl-C is for us, not for the models at work
            preexec_fn=before_start,
            umask=region_modes.UMASK,
        )
        return self.process

    def restart(self) -> None:
        """End what is left of it at once, remove what it has in /dev/shm, and start it again."""
        self.end(0.0)
        shared_memory.remove_regions(self.prefix)
        shared_memory.sweep_clients()
        self.start()

    def stubs(self) -> dict[int, str]:
        """Return process id -> model for every living process of a Python backend."""
        models = {}
        for child in children(self.process.pid):
            try:
                if child.status() == psutil.STATUS_ZOMBIE:
                    continue
                words = child.cmdline()
            except psutil.Error:
                continue
            # A stub's first argument is the file it serves, REPOSITORY/MODEL/VERSION/FILE.
            if len(words) > 1 and words[0].endswith("triton_python_backend_stub"):
                models[child.pid] = Path(words[1]).parent.parent.name
        return models

    def work(self) -> float:
        """Return the work that the models have done: answers plus seconds of processor time."""
        total = float(self.control.inference_count())
        for pid in self.stubs():
            with suppress(psutil.Error):
                times = psutil.Process(pid).cpu_times()
                total += times.user + times.system
        return total

    def end(self, seconds: float) -> None:
        """Send SIGTERM, and after `seconds` kill what is left of tritonserver's processes."""
        self.process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def children(pid: int) -> list[psutil.Process]:
    """Return the child processes of `pid`; none when it has ended."""
    with suppress(psutil.Error):
        return list(psutil.Process(pid).children())
    return []


def before_start() -> None:
    """Have the kernel end this process with its parent (SIGTERM), and keep its memory private."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    region_modes.ignore_open_modes()
