"""One `python -m server`: started, awaited, inspected and ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from bench import ROOT

SHM = Path("/dev/shm")
KEY_HEADER = "triton-grpc-protocol-maisi-control"  # of gRPC, as server/launch.py has it
PATIENCE = 120  # seconds after which a wait counts as a hang, however busy the machine is


class ServerFailed(RuntimeError):
    """The server did not start, does not answer or has no such model; one sentence."""


class Server:
    """A server process on free ports; ready after the constructor, unless `ready` is false.

    `arguments` are those of `python -m server`, `prefix` the beginning of a command that becomes
    it, `options` those of Popen. Its log is the file `log`. `grpc`, `http`, `metrics` and `status`
    are addresses HOST:PORT. Raises ServerFailed where it does not get ready. As a context manager
    it stops at the end, when its requests are answered.
    """

    def __init__(
        self,
        repository: Path,
        log: Path,
        *arguments: str,
        prefix: Sequence[str] = (),
        ready: bool = True,
        **options: Any,
    ) -> None:
        self.log_file, self._log_start = log, 0
        ports = [f"--{name}-port=0" for name in ("grpc", "http", "metrics", "status")]
        command = [*prefix, sys.executable, "-m", "server", f"--repository={repository}"]
        with log.open("w") as file:
            defaults: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
            defaults |= {"stderr": file, "text": True}
            self.process: subprocess.Popen[str] = subprocess.Popen(
                [*command, *ports, *arguments], cwd=ROOT, **(defaults | options)
            )
        self.pid = self.process.pid
        self.line = self.grpc = self.http = self.metrics = self.status = ""
        self.variants: list[str] = []
        if ready:
            try:
                self.wait_ready()
            except BaseException:
                self.__exit__()
                raise

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def wait_ready(self) -> None:
        """Read the ready line; raises ServerFailed where the server ends without one."""
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        if not self.line.startswith("ready: "):
            lines = [line for line in self.log.splitlines() if line.startswith("serve: ")]
            reason = lines[-1].removeprefix("serve: ") if lines else f"its log is {self.log_file}."
            raise ServerFailed(f"The server did not start: {reason}")
        values = dict(word.split("=", 1) for word in self.line.split()[1:])
        self.grpc, self.http = values["grpc"], values["http"]
        self.metrics, self.status = values["metrics"], values["status"]
        self.variants = [name for name in values["variants"].split(",") if name]

    @property
    def log(self) -> str:
        """The log, from where `forget_log` was called last."""
        return self.log_file.read_bytes()[self._log_start :].decode()

    def forget_log(self) -> None:
        """Let `log` begin here."""
        self._log_start = self.log_file.stat().st_size

    @property
    def triton(self) -> psutil.Process:
        """The process of tritonserver; raises LookupError while there is none."""
        children = psutil.Process(self.pid).children()
        if len(children) != 1:
            raise LookupError(f"the server has {len(children)} children, and tritonserver is one")
        return children[0]

    def stubs(self) -> dict[str, psutil.Process]:
        """Return model -> the living Python process that serves it."""
        stubs = {}
        for child in self.triton.children():
            with suppress(psutil.Error):  # it has ended
                words = child.cmdline()  # a stub: program, REPOSITORY/MODEL/VERSION/FILE, ...
                if len(words) > 1 and words[0].endswith("triton_python_backend_stub"):
                    stubs[Path(words[1]).parent.parent.name] = child
        return stubs

    def stub(self, model: str) -> psutil.Process:
        """Return the Python process that serves `model`; raises LookupError without one."""
        return self.stubs()[model]

    def shared_memory(self, shm: Path = SHM) -> list[str]:
        """Return the names of this server's files in /dev/shm, or in another view of it."""
        return [path.name for path in shm.glob(f"maisi-serve-{self.pid}-*")]

    def stop(self, timeout: float = PATIENCE) -> int:
        """Stop it when its requests are answered, and return its exit status."""
        self.process.terminate()
        return self.process.wait(timeout)

    def die(self) -> None:
        """Kill it with all its processes, as a power cut does."""
        family = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family[1:], PATIENCE)
        self.process.wait(PATIENCE)

    def end(self) -> None:
        """Make sure that it has ended and has removed its shared memory; requests are dropped."""
        if self.process.poll() is None:
            family = psutil.Process(self.pid).children(recursive=True)
            try:
                self.process.terminate()  # and once more, which stops it at once
                time.sleep(0.1)
                self.stop()
            except subprocess.TimeoutExpired:
                for process in [psutil.Process(self.pid), *family]:
                    if process.is_running():
                        process.kill()
                raise
        elif self.process.returncode == -signal.SIGKILL:  # the next server would remove it
            for name in self.shared_memory():
                (SHM / name).unlink()
        if self.process.stdout is not None:
            self.process.stdout.close()
