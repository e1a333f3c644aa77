"""Quotas and limits of control groups, of synthetic trees and of a real group."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from backends.engines import cgroup
from tests.conftest import ROOT

MiB = 1 << 20


def tree(folder: Path, groups: str, mounts: Mapping[str, str], files: Mapping[str, str]) -> Path:
    """Write a /proc/self (returned) of `groups`, and mounted files.

    `mounts`: mount point -> "ROOT TYPE CONTROLLERS"; points and files are below `folder`.
    """
    proc = folder / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(groups)
    lines = ["22 1 8:1 / / rw - ext4 /dev/sda rw,cpu"]
    for point, words in mounts.items():
        root, system, options = words.split()
        escaped = str(folder / point).replace(" ", r"\040")
        lines.append(f"31 23 0:28 {root} {escaped} rw shared:9 - {system} none rw,{options}")
    (proc / "mountinfo").write_text("\n".join(lines) + "\n")
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return proc


V2 = {"fs": "/ cgroup2 nsdelegate"}
V1 = {"fs/cpu,cpuacct": "/ cgroup cpuacct,cpu", "fs/memory": "/ cgroup memory"}


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "cpus"),
    [
        ("0::/\n", V2, {}, None),
        ("0::/\n", V2, {"fs/cpu.max": "max 100000"}, None),
        ("0::/\n", V2, {"fs/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b c\n", V2, {"fs/a/b c/cpu.max": "300000 100000"}, 3),
        # the smallest one of all ancestors
        (
            "0::/a/b\n",
            V2,
            {"fs/a/b/cpu.max": "300000 100000", "fs/a/cpu.max": "50000 25000"},
            2,
        ),
        ("0::/a/b\n", V2, {"fs/a/b/cpu.max": "1000 1000", "fs/a/cpu.max": "max 1000"}, 1),
        # those of other groups do not count
        ("0::/a/b\n", V2, {"fs/a/c/cpu.max": "1000 1000", "fs/b/cpu.max": "1000 1000"}, None),
        ("0::/a\n", {"my fs": "/ cgroup2 x"}, {"my fs/a/cpu.max": "1000 2000"}, 0.5),
        (
            "4:cpu,cpuacct:/a/b\n3:memory:/m\n0::/u\n",
            V1,
            {
                "fs/cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "fs/cpu,cpuacct/cpu.cfs_period_us": "100000",
                "fs/cpu,cpuacct/a/cpu.cfs_quota_us": "250000",
                "fs/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
                "fs/cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1",
                "fs/cpu,cpuacct/a/b/cpu.cfs_period_us": "100000",
            },
            2.5,
        ),
        # a container of v1: its own group is what is mounted, under a name of the host
        (
            "4:cpu:/docker/0123\n",
            {"fs/cpu": "/docker/0123 cgroup cpu"},
            {"fs/cpu/cpu.cfs_quota_us": "400000", "fs/cpu/cpu.cfs_period_us": "100000"},
            4,
        ),
        # the group is outside of the mount
        (
            "0::/../other\n",
            {"fs": "/kubepods cgroup2 x"},
            {"fs/cpu.max": "200000 100000", "other/cpu.max": "1000 1000"},
            2,
        ),
        # v2 beside v1, which has the controller
        (
            "1:cpu:/a\n0::/a\n",
            {"fs/unified": "/ cgroup2 x", "fs/cpu": "/ cgroup cpu"},
            {"fs/cpu/a/cpu.cfs_quota_us": "1000", "fs/cpu/a/cpu.cfs_period_us": "500"},
            2,
        ),
        ("0::/\n", {}, {}, None),
        ("", V2, {"fs/cpu.max": "1000 1000"}, None),
    ],
)
def test_the_smallest_quota_counts(
    tmp_path: Path, groups: str, mounts: dict[str, str], files: dict[str, str], cpus: float | None
) -> None:
    assert cgroup.cpus(tree(tmp_path, groups, mounts, files)) == cpus


def test_without_proc_there_is_no_limit(tmp_path: Path) -> None:
    assert cgroup.cpus(tmp_path) is None
    assert cgroup.memory(tmp_path) is None


def v2_memory(limit: str, used: int, cached: int) -> dict[str, str]:
    stat = f"anon 5\ninactive_file {cached}\nactive_file 7"
    return {"memory.max": limit, "memory.current": str(used), "memory.stat": stat}


def v1_memory(limit: int, used: int, cached: int) -> dict[str, str]:
    stat = f"inactive_file 3\ntotal_inactive_file {cached}"
    return {
        "memory.limit_in_bytes": str(limit),
        "memory.usage_in_bytes": str(used),
        "memory.stat": stat,
    }


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "free_bytes"),
    [
        ("0::/a/b\n", V2, {"fs/a/b/": v2_memory("max", 5, 1)}, None),
        ("0::/a/b\n", V2, {"fs/a/b/": v2_memory(f"{100 * MiB}", 60 * MiB, MiB)}, 41 * MiB),
        (
            "0::/a/b\n",
            V2,
            {
                "fs/a/b/": v2_memory(f"{100 * MiB}", 60 * MiB, MiB),
                "fs/a/": v2_memory(f"{200 * MiB}", 190 * MiB, 0),
            },
            10 * MiB,
        ),
        ("3:memory:/a/b\n", V1, {"fs/memory/a/": v1_memory(9 * MiB, 3 * MiB, MiB)}, 7 * MiB),
        ("3:cpu:/a\n2:memory:/b\n", V1, {"fs/memory/a/": v1_memory(9, 3, 1)}, None),
    ],
)
def test_the_smallest_free_memory_counts(
    tmp_path: Path,
    groups: str,
    mounts: dict[str, str],
    files: dict[str, dict[str, str]],
    free_bytes: int | None,
) -> None:
    flat = {
        f"{group}{name}": text
        for group, group_files in files.items()
        for name, text in group_files.items()
    }
    assert cgroup.memory(tree(tmp_path, groups, mounts, flat)) == free_bytes


def in_group(controller: str, limits: Mapping[str, str], code: str) -> str:
    """Run Python in a group within a new group of these limits; return its output."""
    for folder in cgroup._groups(controller, cgroup.PROC):
        outer = folder / f"maisi-test-{os.getpid()}"
        with ExitStack() as cleanup:
            try:
                for group in (outer, outer / "inner"):
                    group.mkdir()
                    cleanup.callback(group.rmdir)
                for name, value in limits.items():
                    (outer / name).write_text(value)
            except OSError:  # not root, or another controller
                continue
            script = f'echo $$ >"{outer}/inner/cgroup.procs" && exec "$@"'
            command = ["sh", "-c", script, "sh", sys.executable, "-c", code]
            return subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout
    pytest.skip("no control group can be created")


def test_engines_respect_a_real_quota() -> None:
    code = "from backends.engines import cgroup, openvino; print(cgroup.cpus(), openvino.cores())"
    v1 = {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}
    version1 = not Path("/sys/fs/cgroup/cgroup.controllers").exists()
    assert in_group("cpu", v1 if version1 else {"cpu.max": "50000 100000"}, code) == "0.5 1\n"


def test_slabs_respect_a_real_limit_of_memory() -> None:
    code = "from backends.engines import memory; print(memory.available())"
    version1 = not Path("/sys/fs/cgroup/cgroup.controllers").exists()
    name = "memory.limit_in_bytes" if version1 else "memory.max"
    assert 50 * MiB < int(in_group("memory", {name: str(300 * MiB)}, code)) <= 300 * MiB
