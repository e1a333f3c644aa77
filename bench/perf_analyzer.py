"""NVIDIA's perf_analyzer: found or installed, run for one level of load, its times read."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

VERSION = "2.60.0"
_SHA256 = "23ef56b107ae9233e5cf09fbdf508dd9b936a52f1bae2f63f53c8117087b3f25"
_PLATFORM = "manylinux_2_38_x86_64"  # what its wheel says: glibc 2.38 or newer
# What perf_analyzer links to. An older system takes them from Debian 13, beside its own.
_LIBRARIES = ("libc6", "libgcc-s1", "libssl3t64", "libstdc++6", "libzstd1", "zlib1g")
_SUITE = "http://deb.debian.org/debian trixie main"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_TRIPLET = Path("usr", "lib", "x86_64-linux-gnu")
INSTEAD = (
    "Put a perf_analyzer that runs here on PATH, or run this in NVIDIA's SDK image"
    " nvcr.io/nvidia/tritonserver:25.01-py3-sdk, which has it."
)
_SHM = Path("/dev/shm")
_BYTES_A_VALUE = 16  # what perf_analyzer takes to write down one value of a request or an answer


class Unavailable(RuntimeError):
    """There is no perf_analyzer here and none can be installed; the message is for the user."""


class Failed(RuntimeError):
    """A run gave no measurement; the message is one sentence."""


@dataclass(frozen=True)
class Load:
    """What perf_analyzer is to do: `requests` at a concurrency, or else at `rate` a second."""

    requests: int
    concurrency: int = 0
    rate: float = 0.0

    def __str__(self) -> str:
        return f"{self.concurrency} at once" if self.concurrency else f"{self.rate:g}/s"


@dataclass(frozen=True)
class Endpoint:
    """A model as it is called; `shared_memory`: bytes for each output, 0 sends tensors by gRPC."""

    model: str
    streaming: bool
    shared_memory: int = 0


@dataclass(frozen=True)
class Request:
    """When a request was sent and its responses came, in seconds since the epoch."""

    sent: float
    responses: tuple[float, ...]

    @property
    def latency(self) -> float:
        """Seconds until the last response, which has the volume."""
        return self.responses[-1] - self.sent


def command() -> list[str]:
    """Give the words that start perf_analyzer: from PATH, our own folder, or installed into that.

    Raises Unavailable.
    """
    found = shutil.which("perf_analyzer")
    if found and _runs([found]):
        return [found]
    folder = cache()
    if not folder.is_dir():
        _install(folder)
    for words in (_plain(folder), _with_libraries(folder)):
        if _runs(words):
            return words
    raise Unavailable(
        f"The perf_analyzer in {folder} does not start on this system: delete that folder and try"
        f" again. {INSTEAD}"
    )


def cache() -> Path:
    """Name the folder that holds the perf_analyzer we installed."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "maisi-triton", f"perf_analyzer-{VERSION}")


def _plain(folder: Path) -> list[str]:
    return [str(folder / "perf_analyzer")]


def _with_libraries(folder: Path) -> list[str]:
    libraries = folder / _TRIPLET
    loader = libraries / "ld-linux-x86-64.so.2"
    return [str(loader), "--library-path", str(libraries), *_plain(folder)]


def _runs(words: Sequence[str]) -> bool:
    try:
        return (
            subprocess.run([*words, "--version"], capture_output=True, timeout=60).returncode == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


def _install(folder: Path) -> None:
    """Fill `folder`, whole or not at all."""
    print(f"installing perf_analyzer {VERSION} into {folder} (once) ...", file=sys.stderr)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as new:
            draft = Path(new, "perf_analyzer")
            draft.mkdir()
            _download(draft)
            if not _runs(_plain(draft)):
                _add_libraries(draft)
            with suppress(FileExistsError):  # somebody was faster
                draft.rename(folder)
    except OSError as error:
        raise Unavailable(
            f"perf_analyzer cannot be installed into {folder}: {error.strerror}. {INSTEAD}"
        ) from None


def _download(draft: Path) -> None:
    """Take the program out of its wheel."""
    # For its own platform, since pip hides wheels that need a newer glibc than this system's.
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    pip += ["--only-binary=:all:", f"--platform={_PLATFORM}", "--dest", str(draft)]
    _must([*pip, f"perf-analyzer=={VERSION}"], f"pip cannot download perf-analyzer {VERSION}")
    (wheel,) = draft.glob("*.whl")
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != _SHA256:
        raise Unavailable(f"{wheel.name} is not the file that was published under that name.")
    with zipfile.ZipFile(wheel) as archive:
        program = archive.read("perf_analyzer/bin/perf_analyzer")
    (draft / "perf_analyzer").write_bytes(program)
    (draft / "perf_analyzer").chmod(0o755)
    wheel.unlink()


def _add_libraries(draft: Path) -> None:
    """Unpack Debian 13's libraries, checked by apt, into `draft`; the system is not touched."""
    missing = [tool for tool in ("apt-get", "dpkg-deb") if not shutil.which(tool)]
    if missing or not _KEYRING.is_file():
        raise Unavailable(
            f"perf_analyzer {VERSION} needs glibc 2.38 and OpenSSL 3 (Ubuntu 24.04, Debian 13),"
            " and to bring newer libraries for it to this system, apt-get, dpkg-deb and the"
            f" package debian-archive-keyring are needed. {INSTEAD}"
        )
    apt = draft / "apt"
    for name in ("lists/partial", "cache/archives/partial", "packages"):
        (apt / name).mkdir(parents=True)
    (apt / "sources.list").write_text(f"deb [arch=amd64 signed-by={_KEYRING}] {_SUITE}\n")
    (apt / "status").touch()
    settings = {
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "root",  # `_apt` may not write here, and nobody else needs to be
        "Acquire::Languages": "none",
        "Dir::Cache": apt / "cache",
        "Dir::Etc::SourceList": apt / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": apt / "lists",
        "Dir::State::Status": apt / "status",
    }
    get = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in settings.items())]
    why = "the libraries of Debian 13, which perf_analyzer needs here, cannot be downloaded"
    _must([*get, "update"], why)
    _must([*get, "download", *_LIBRARIES], why, apt / "packages")
    for package in (apt / "packages").glob("*.deb"):
        _must(["dpkg-deb", "--extract", str(package), str(draft)], f"{package.name} is broken")
    shutil.rmtree(apt)


def _must(words: Sequence[str], why: str, folder: Path | None = None) -> None:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "no reason given").splitlines()[-1].rstrip(".")
        raise Unavailable(f"{why[0].upper()}{why[1:]}: {last}. {INSTEAD}")


def memory(load: Load, endpoint: Endpoint, voxels: int) -> int:
    """Estimate the bytes that perf_analyzer takes: it keeps every mask and volume until its end."""
    return 0 if endpoint.shared_memory else load.requests * 2 * voxels * _BYTES_A_VALUE


def run(
    program: Sequence[str],
    url: str,
    endpoint: Endpoint,
    load: Load,
    data: Path,
    seconds: float,
    key: str = "",
) -> list[Request]:
    """Put `load` on an endpoint of the server at `url` (gRPC), with the inputs in `data`.

    `data` is JSON as `--input-data` takes it, `key` what shared memory needs. Raises Failed when a
    request failed, which ends perf_analyzer, or when it took more than `seconds`.
    """
    with tempfile.TemporaryDirectory(prefix="loadtest-") as folder:
        profile, log = Path(folder, "profile.json"), Path(folder, "log")
        words = [*program, "-m", endpoint.model, "-u", url, "-i", "grpc", f"--input-data={data}"]
        # Not --sync, whose few threads would hold back what a rate asks for.
        words.append("--streaming" if endpoint.streaming else "--async")
        if endpoint.shared_memory:
            words.append("--shared-memory=system")
            words += ["-H", f"triton-grpc-protocol-maisi-control:{key}"]
            words.append(f"--output-shared-memory-size={endpoint.shared_memory}")
        # A range with itself as its end: one number alone means "up to 1".
        words.append(
            f"--concurrency-range={load.concurrency}"
            if load.concurrency
            else f"--request-rate-range={load.rate}:{load.rate}:{load.rate}"
        )
        words += [f"--request-count={load.requests}", f"--profile-export-file={profile}"]
        status = -1
        for _ in range(2):  # seldom it crashes, within gRPC
            with log.open("wb") as out:
                status = _wait(words, out.fileno(), seconds)
            if profile.is_file():  # it did its work before
                return read(profile)
            if status >= 0:
                break
        raise Failed(reason(log.read_text(errors="replace"), status))


def _wait(words: Sequence[str], out: int, seconds: float) -> int:
    """Run to the end and leave nothing behind, in /dev/shm neither; returns the exit status."""
    # A session of its own, as it hangs when Ctrl-C reaches it: it then waits for answers to
    # requests that it no longer sends.
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=out,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise Failed(f"perf_analyzer was not done after {seconds:g} s and was stopped.") from None
    finally:
        if process.poll() is None:
            regions = _regions(process.pid)
            process.kill()
            process.wait()
            for path in regions:
                path.unlink(missing_ok=True)


def _regions(pid: int) -> set[Path]:
    """List the shared memory that a process has mapped."""
    with suppress(psutil.Error):
        mapped = {Path(each.path) for each in psutil.Process(pid).memory_maps()}
        return {path for path in mapped if path.parent == _SHM}
    return set()


def _end_with_parent() -> None:
    """Have the kernel end perf_analyzer when we are killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def reason(log: str, status: int) -> str:
    """Find in perf_analyzer's output why it gave up."""
    for pattern in (r"Thread \[\d+\] had error: (.+)", r"(?m)^[Ee]rror: (.+)"):
        if found := re.search(pattern, log):
            return found[1].strip()
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "no word")
    return f"perf_analyzer ended with status {status} and {last.strip()!r}."


def read(profile: Path) -> list[Request]:
    """Read a file of `--profile-export-file`, in the order in which the requests were sent.

    The end of a stream, an empty response after those with content, is left out, as perf_analyzer
    does. The file repeats every mask and volume in decimal digits, so it is searched, not parsed.
    Raises Failed when it holds no answered request.
    """
    requests = []
    with profile.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        sent = re.finditer(rb'"timestamp":(\d+)', text)
        responses = re.finditer(rb'"response_timestamps":\[([\d,]+)\]', text)
        for start, ends in zip(sent, responses, strict=True):
            times = tuple(int(end) / 1e9 for end in ends[1].split(b","))
            content = times[:-1] if len(times) > 1 else times
            requests.append(Request(int(start[1]) / 1e9, content))
    if not requests:
        raise Failed("perf_analyzer measured no request.")
    return sorted(requests, key=lambda request: request.sent)
