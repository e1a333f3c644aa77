"""Sample the resources of a server and its clients, and check whether they grow."""

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
# A flat quantity grows by at most this share, bytes or count. A gRPC connection has 3 descriptors.
_SHARE, _BYTES, _COUNT = 0.02, 10e6, 3


@dataclass(frozen=True)
class Sample:
    """The amounts of resources at a time, in seconds since the first sample.

    `amounts` has an amount for each pair of a quantity and a process. The quantities are private
    memory in bytes, files in /dev/shm in bytes, open descriptors, and threads. The files are
    measured by themselves, because the shared memory of a process grows while it touches more pages
    of files whose size does not change.
    """

    seconds: float
    amounts: dict[tuple[str, str], float]


@dataclass
class Sampler:
    """Samples the resources of a server and of its clients, which run in this process.

    `files` has the names of the clients' files in /dev/shm that a sampled process has mapped so
    far. `pids` has the ids of the processes by name; a name whose process died has several.
    """

    server: Server
    pids: dict[str, set[int]] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)

    def sample(self, seconds: float) -> Sample:
        """Return a sample; `seconds` is its time."""
        amounts: dict[tuple[str, str], float] = {}
        for name, process in self._processes().items():
            with suppress(psutil.Error):
                amounts[MEMORY, name] = processes.private(process.pid)
                amounts[DESCRIPTORS, name] = process.num_fds()
                amounts[THREADS, name] = process.num_threads()
                self.pids.setdefault(name, set()).add(process.pid)
                self.files |= _mapped(process.pid)
        for name, files in ("server", self.server.shared_memory()), ("clients", self.files):
            amounts[SHARED, name] = processes.allocated(SHM / file for file in files)
        return Sample(seconds, amounts)

    def died(self) -> list[str]:
        """Return the names of processes that died and were started again."""
        return sorted(name for name, pids in self.pids.items() if len(pids) > 1)

    def _processes(self) -> dict[str, psutil.Process]:
        by_name = {"clients": psutil.Process()}
        with suppress(psutil.Error, LookupError):
            by_name["supervisor"] = psutil.Process(self.server.pid)
            by_name["tritonserver"] = self.server.triton
            by_name |= self.server.stubs()
        return by_name


def _mapped(pid: int) -> set[str]:
    """Return the names of the clients' files in /dev/shm that a process has mapped."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        return {line.rpartition("/")[2] for line in lines if "/dev/shm/maisi-client-" in line}
    return set()


@dataclass(frozen=True)
class Growth:
    """A quantity in a run, and whether it is flat.

    `before` is the higher one of the medians of the first and of the second third. `after` is the
    median of the last third.
    """

    before: float
    after: float
    flat: bool


def growth(samples: Sequence[Sample]) -> dict[tuple[str, str], Growth]:
    """Return the growth of each quantity and process in the last third of a run.

    A quantity is flat if `after` exceeds `before` by at most 2 % or 10 MB, whichever is more. For
    descriptors and threads, the limit is 3. A process without samples in the second or the last
    third is omitted.
    """
    length = samples[-1].seconds
    thirds = [
        [sample.amounts for sample in samples if low <= sample.seconds / length <= low + 1 / 3]
        for low in (0, 1 / 3, 2 / 3)
    ]
    results = {}
    for key in sorted({key for sample in samples for key in sample.amounts}):
        by_third = [[amounts[key] for amounts in third if key in amounts] for third in thirds]
        if by_third[1] and by_third[2]:
            *earlier, last = [statistics.median(third) for third in by_third if third]
            first = max(earlier)
            allowed = _COUNT if key[0] in (DESCRIPTORS, THREADS) else max(_SHARE * first, _BYTES)
            results[key] = Growth(first, last, last - first <= allowed)
    return results


def write_csv(samples: Sequence[Sample], path: Path) -> None:
    """Write a row for each sample: the seconds, and a column for each quantity and process."""
    keys = sorted({key for sample in samples for key in sample.amounts})
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seconds", *(f"{quantity}: {name}" for quantity, name in keys)])
        for sample in samples:
            writer.writerow(
                [round(sample.seconds, 1), *(sample.amounts.get(key, "") for key in keys)]
            )


def plot(samples: Sequence[Sample], path: Path) -> None:
    """Draw a panel for each quantity with a line for each process.

    The suffix of the path selects PNG or SVG.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scales = {MEMORY: 1e6, SHARED: 1e6, DESCRIPTORS: 1.0, THREADS: 1.0}
    names = sorted({name for sample in samples for _, name in sample.amounts})
    colours = {name: matplotlib.colormaps["tab20"](number) for number, name in enumerate(names)}
    figure, axes = pyplot.subplots(len(scales), 1, figsize=(9, 11), sharex=True)
    for axis, (quantity, scale) in zip(axes, scales.items(), strict=True):
        for name in names:
            points = [
                (sample.seconds / 60, sample.amounts[quantity, name] / scale)
                for sample in samples
                if (quantity, name) in sample.amounts
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
