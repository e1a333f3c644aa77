"""What the control groups of this process allow, by cgroup v1 and v2 (cgroups(7), proc(5)).

A group has the limits of all groups that it lies in, too: the smallest counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

PROC = Path("/proc/self")
# Names in v1 and v2: of the limit, of what is used, and in memory.stat of what can go back.
_MEMORY = (
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ("memory.max", "memory.current", "inactive_file"),
)


def cpus(proc: Path = PROC) -> float | None:
    """Return how many processors' time the quotas leave to this process; None: no quota."""
    quotas = []
    for group in _groups("cpu", proc):
        with suppress(OSError, ValueError, ZeroDivisionError):  # no such file, or no number: none
            if (group / "cpu.max").exists():
                quota, period = map(int, (group / "cpu.max").read_text().split())
            else:
                names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                quota, period = (int((group / name).read_text()) for name in names)
            if quota > 0:  # v1 writes -1 for none
                quotas.append(quota / period)
    return min(quotas, default=None)


def memory(proc: Path = PROC) -> int | None:
    """Return the bytes that the limits leave to this process; None: no limit."""
    rest = []
    for group in _groups("memory", proc):
        for limit, used, cached in _MEMORY:
            with suppress(OSError, ValueError, KeyError):
                most, now = (int((group / name).read_text()) for name in (limit, used))
                lines = (group / "memory.stat").read_text().splitlines()
                rest.append(most - now + int(dict(line.split() for line in lines)[cached]))
    return min(rest, default=None)


def _groups(controller: str, proc: Path) -> Iterator[Path]:
    """Yield the folder of the process's group, and of each that it lies in, of v1 and v2."""
    try:
        lines = (proc / "cgroup").read_text().splitlines()
        mounts = list(_mounts((proc / "mountinfo").read_text()))
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        group = PurePosixPath(path)
        for root, point, options in mounts:
            if not {"", controller} & {*names.split(",")} & options:
                continue
            # A group outside of what is mounted here, as in some containers: that bounds it, too.
            within = group.is_relative_to(root) and ".." not in group.parts
            folder = point / (group.relative_to(root) if within else "")
            yield from (folder, *(up for up in folder.parents if up.is_relative_to(point)))


def _mounts(text: str) -> Iterator[tuple[str, Path, set[str]]]:
    """Yield root, mount point and controllers, "" for v2, of the hierarchies in a mountinfo."""
    for line in text.splitlines():
        words, _, kind = line.partition(" - ")
        root, point = (_unescaped(word) for word in words.split()[3:5])
        system, _, options = kind.split(" ")[:3]
        if system in ("cgroup", "cgroup2"):
            yield root, Path(point), {""} if system == "cgroup2" else {*options.split(",")}


def _unescaped(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), word)
