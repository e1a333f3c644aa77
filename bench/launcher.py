"""Start a `python -m server`, wait until it is ready, inspect it and end it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from bench import ROOT

SHM = Path("/dev/shm")
KEY_HEADER = "triton-grpc-protocol-maisi-control"  # of gRPC; server/launch.py sets it
PATIENCE = 120  # seconds after which a wait counts as a hang, however busy the machine is


class ServerFailed(RuntimeError):
    """The server did not start, does not answer, or lacks the model; the message is a sentence."""


class Server:
    """A server process on free ports.

    The constructor waits until the server is ready, unless `ready` is false, and raises
    ServerFailed if the server ends first. `arguments` are arguments of `python -m server`,
    `prefix` is a command that runs the server's command, and `options` are options of Popen. The
    server writes its log to the file `log`. `grpc`, `http`, `metrics` and `status` are addresses
    HOST:PORT. At the end of a `with` block, the server answers its requests and stops.
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
            defaults |= {"stderr": file, "text": True, "cwd": ROOT}
            self.process: subprocess.Popen[str] = subprocess.Popen(
                [*command, *ports, *arguments], **(defaults | options)
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
        """Read the ready line; raise ServerFailed if the server ends without one."""
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
        """The log since the last call of `forget_log`."""
        return self.log_file.read_bytes()[self._log_start :].decode()

    def forget_log(self) -> None:
        """Make `log` begin at the current end of the file."""
        self._log_start = self.log_file.stat().st_size

    @property
    def triton(self) -> psutil.Process:
        """The process of tritonserver; raises LookupError if it does not run."""
        children = psutil.Process(self.pid).children()
        if len(children) != 1:
            raise LookupError(
                f"the server has {len(children)} child processes, but 1 (tritonserver) is expected"
            )
        return children[0]

    def stubs(self) -> dict[str, psutil.Process]:
        """Return the running Python processes that serve models, by model."""
        stubs = {}
        for child in self.triton.children():
            with suppress(psutil.Error):  # the child has ended
                words = child.cmdline()  # of a stub: program, REPOSITORY/MODEL/VERSION/FILE, ...
                if len(words) > 1 and words[0].endswith("triton_python_backend_stub"):
                    stubs[Path(words[1]).parent.parent.name] = child
        return stubs

    def stub(self, model: str) -> psutil.Process:
        """Return the Python process that serves `model`; raise LookupError if there is none."""
        return self.stubs()[model]

    def shared_memory(self, shm: Path = SHM) -> list[str]:
        """Return the names of this server's files in `shm`, a path to /dev/shm."""
        return [path.name for path in shm.glob(f"maisi-serve-{self.pid}-*")]

    def stop(self, timeout: float = PATIENCE) -> int:
        """Let the server answer its requests and stop; return its exit status.

        Raises subprocess.TimeoutExpired after `timeout` seconds.
        """
        self.process.terminate()
        return self.process.wait(timeout)

    def die(self) -> None:
        """Kill the server and all its child processes, as a power cut does."""
        family = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family[1:], PATIENCE)
        self.process.wait(PATIENCE)

    def end(self) -> None:
        """Stop the server, if it runs, without waiting for its requests; free its shared memory.

        Raises subprocess.TimeoutExpired, after killing the server, if it does not stop.
        """
        if self.process.poll() is None:
            family = psutil.Process(self.pid).children(recursive=True)
            try:
                # The second signal stops it at once; signals that come together are one.
                for timeout in (0.1, 1, 5):
                    with suppress(subprocess.TimeoutExpired):
                        self.stop(timeout)
                        break
                else:
                    self.stop()
            except subprocess.TimeoutExpired:
                for process in [psutil.Process(self.pid), *family]:
                    if process.is_running():
                        process.kill()
                raise
        elif self.process.returncode == -signal.SIGKILL:  # it could not remove its shared memory
            for name in self.shared_memory():
                (SHM / name).unlink(missing_ok=True)
        if self.process.stdout is not None:
            self.process.stdout.close()
