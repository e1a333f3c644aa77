"""What a server and its clients hold, looked at again and again, and whether that grows."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench import processes
from bench.launcher import SHM, Server

MEMORY, SHARED, DESCRIPTORS, THREADS = "memory", "shared memory", "descriptors", "threads"
# What a quantity may differ by and still be flat; a connection of gRPC has three descriptors.
_SHARE, _BYTES, _COUNT = 0.02, 10e6, 3


@dataclass(frozen=True)
class Sample:
    """What was held at a time: seconds since the first look, (quantity, process) -> amount.

    Quantities: private memory and files in /dev/shm, bytes, since who maps those touches more and
    more of them while they stay as they are; open descriptors; threads.
    """

    seconds: float
    held: dict[tuple[str, str], float]


@dataclass
class Watcher:
    """Samples a server and its clients, which are this process.

    Of the clients' files in /dev/shm those are theirs that this process or tritonserver once held.
    `lives`: name -> ids of the processes that had it; more than one says that one died.
    """

    server: Server
    lives: dict[str, set[int]] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)

    def look(self, seconds: float) -> Sample:
        """Take a sample."""
        held: dict[tuple[str, str], float] = {}
        for name, process in self._processes().items():
            with suppress(psutil.Error):
                held[MEMORY, name] = processes.private(process.pid)
                held[DESCRIPTORS, name] = process.num_fds()
                held[THREADS, name] = process.num_threads()
                self.lives.setdefault(name, set()).add(process.pid)
                self.files |= _mapped(process.pid)
        held[SHARED, "server"] = processes.allocated(
            SHM / name for name in self.server.shared_memory()
        )
        held[SHARED, "clients"] = processes.allocated(SHM / name for name in self.files)
        return Sample(seconds, held)

    def died(self) -> list[str]:
        """Name the processes of the server that had to be started again."""
        return sorted(name for name, pids in self.lives.items() if len(pids) > 1)

    def _processes(self) -> dict[str, psutil.Process]:
        by_name = {"clients": psutil.Process()}
        with suppress(psutil.Error, LookupError):
            by_name["supervisor"] = psutil.Process(self.server.pid)
            by_name["tritonserver"] = self.server.triton
            by_name |= self.server.stubs()
        return by_name


def _mapped(pid: int) -> set[str]:
    """Name the clients' files in /dev/shm that a process has mapped."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        return {line.rpartition("/")[2] for line in lines if "/dev/shm/maisi-client-" in line}
    return set()


@dataclass(frozen=True)
class Growth:
    """The higher median of a run's first two thirds, that of the last, and whether it is flat."""

    before: float
    after: float
    flat: bool


def growth(samples: Sequence[Sample]) -> dict[tuple[str, str], Growth]:
    """Compare the last third of a run with those before it, for each quantity and process.

    It is flat where the median is not more than 2 % or 10 MB, whichever is more, above the higher
    one of the two before; for descriptors and threads, not more than 3. A process that is not there
    in the second or the last third is left out.
    """
    length = samples[-1].seconds
    thirds = [
        [sample.held for sample in samples if low <= sample.seconds / length <= low + 1 / 3]
        for low in (0, 1 / 3, 2 / 3)
    ]
    found = {}
    for key in sorted({key for sample in samples for key in sample.held}):
        held = [[each[key] for each in third if key in each] for third in thirds]
        if held[1] and held[2]:
            *earlier, new = [statistics.median(third) for third in held if third]
            old = max(earlier)
            allowed = _COUNT if key[0] in (DESCRIPTORS, THREADS) else max(_SHARE * old, _BYTES)
            found[key] = Growth(old, new, new - old <= allowed)
    return found


def write_csv(samples: Sequence[Sample], path: Path) -> None:
    """Write a row a sample: seconds, and a column for each quantity and process."""
    keys = sorted({key for sample in samples for key in sample.held})
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seconds", *(f"{quantity}: {name}" for quantity, name in keys)])
        for sample in samples:
            writer.writerow([round(sample.seconds, 1), *(sample.held.get(key, "") for key in keys)])


def plot(samples: Sequence[Sample], path: Path) -> None:
    """Draw a panel for each quantity, a line for each process; PNG or SVG by the path's suffix."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scales = {MEMORY: 1e6, SHARED: 1e6, DESCRIPTORS: 1.0, THREADS: 1.0}
    names = sorted({name for sample in samples for _, name in sample.held})
    colours = {name: matplotlib.colormaps["tab20"](number) for number, name in enumerate(names)}
    figure, axes = pyplot.subplots(len(scales), 1, figsize=(9, 11), sharex=True)
    for axis, (quantity, scale) in zip(axes, scales.items(), strict=True):
        for name in names:
            points = [
                (sample.seconds / 60, sample.held[quantity, name] / scale)
                for sample in samples
                if (quantity, name) in sample.held
            ]
            if points:
                axis.plot(*zip(*points, strict=True), linewidth=1, color=colours[name], label=name)
        for third in (1, 2):
            axis.axvline(third * samples[-1].seconds / 180, color="0.6", linewidth=0.8)
        axis.set_ylabel(f"{quantity} (MB)" if scale > 1 else quantity)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    axes[-1].set_xlabel("minutes; grey: the thirds that are compared")
    figure.savefig(path, dpi=80, bbox_inches="tight")
    pyplot.close(figure)
