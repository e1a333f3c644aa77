"""The limits of this process's control groups, v1 and v2 (cgroups(7), proc(5)).

The limits of a group's ancestors also apply to the group. The smallest limit counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

PROC = Path("/proc/self")
# The files of the limit and the usage, and the key of reclaimable memory in memory.stat, for v1,
# v2.
_MEMORY = (
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ("memory.max", "memory.current", "inactive_file"),
)


def cpus(proc: Path = PROC) -> float | None:
    """Return the number of processors that the quotas allow this process; None without a quota."""
    quotas = []
    for group in _groups("cpu", proc):
        with suppress(OSError, ValueError, ZeroDivisionError):  # there is no file, or no number
            if (group / "cpu.max").exists():
                quota, period = map(int, (group / "cpu.max").read_text().split())
            else:
                names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                quota, period = (int((group / name).read_text()) for name in names)
            if quota > 0:  # v1 has -1 without a quota
                quotas.append(quota / period)
    return min(quotas, default=None)


def memory(proc: Path = PROC) -> int | None:
    """Return the bytes that this process may still allocate; None without a limit."""
    free = []
    for group in _groups("memory", proc):
        for limit_file, usage_file, cache_key in _MEMORY:
            with suppress(OSError, ValueError, KeyError):
                limit, usage = (
                    int((group / name).read_text()) for name in (limit_file, usage_file)
                )
                lines = (group / "memory.stat").read_text().splitlines()
                statistics = dict(line.split() for line in lines)
                free.append(limit - usage + int(statistics[cache_key]))
    return min(free, default=None)


def _groups(controller: str, proc: Path) -> Iterator[Path]:
    """Yield the folders of the process's groups, v1 and v2, and of their ancestors."""
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
            # In some containers the group is outside of the mount, whose root also limits it.
            mounted = group.is_relative_to(root) and ".." not in group.parts
            folder = point / (group.relative_to(root) if mounted else "")
            yield from (
                folder,
                *(parent for parent in folder.parents if parent.is_relative_to(point)),
            )


def _mounts(text: str) -> Iterator[tuple[str, Path, set[str]]]:
    """Yield the root, mount point and controllers, "" for v2, of each hierarchy in a mountinfo."""
    for line in text.splitlines():
        words, _, kind = line.partition(" - ")
        root, point = (_unescaped(word) for word in words.split()[3:5])
        system, _, options = kind.split(" ")[:3]
        if system in ("cgroup", "cgroup2"):
            yield root, Path(point), {""} if system == "cgroup2" else {*options.split(",")}


def _unescaped(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), word)
