"""docs/benchmarks.md: one section a measurement, each with its command and its machine."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from bench import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
_HEAD = """# Benchmarks

Every section is written by the command that it names, run with `--write`, and by nothing else.
"""


def machine() -> str:
    """Describe this computer in one line: processor, cores that we may use, memory, system."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    flags = re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    known = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
    best = next((flag for flag in known if flags and flag in flags[1].split()), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0))
    parts = [
        cpu[1].strip() if cpu else platform.machine(),
        *([best] if best else []),
        f"{cores} core{'s' if cores > 1 else ''}",
        f"{memory:.0f} GB",
        f"Linux, Python {platform.python_version()}",
    ]
    return ", ".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write(section: str, command: str, text: str, page: Path = PAGE) -> None:
    """Put a section into the page, in place of an older one of the same title."""
    old = page.read_text() if page.is_file() else _HEAD
    sections = re.split(r"(?m)^(?=## )", old)
    body = f"## {section}\n\n`{command}` on {machine()}.\n\n{text.strip()}\n\n"
    kept = [part for part in sections[1:] if not part.startswith(f"## {section}\n")]
    page.write_text(sections[0].rstrip() + "\n\n" + "".join([*kept, body]).rstrip() + "\n")
