"""Write docs/reference/benchmarks.md: a section for each benchmark, with command and machine."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from bench import ROOT

PAGE = ROOT / "docs" / "reference" / "benchmarks.md"
_HEAD = """# Benchmarks

This page is for readers who want the measurements behind the claims of this project. The command
at the beginning of a section measures its numbers and writes the section, with `--write`.
"""


def machine() -> str:
    """Return a line that describes this machine: processor, usable cores, memory and system."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    flags = re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    extensions = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
    extension = next((flag for flag in extensions if flags and flag in flags[1].split()), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0))
    parts = [
        cpu[1].strip() if cpu else platform.machine(),
        *([extension] if extension else []),
        f"{cores} core{'s' if cores > 1 else ''}",
        f"{memory:.0f} GB",
        f"Linux, Python {platform.python_version()}",
    ]
    return ", ".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def spaced(text: str) -> str:
    """Return Markdown with one blank line around headings, tables, lists and fenced code.

    Two blank lines become one, except in fenced code, which does not change.
    """
    lines: list[str] = []
    previous, gap, fenced = "", False, False
    for line in text.splitlines():
        if fenced:
            lines.append(line)
            fenced = not line.startswith("```")
            continue
        if not line.strip():
            gap = True
            continue
        kind = _kind(line, previous)
        if lines and (gap or kind != previous or kind in ("heading", "fence")):
            lines.append("")
        lines.append(line)
        previous, gap, fenced = kind, False, kind == "fence"
    return "\n".join(lines)


def _kind(line: str, previous: str) -> str:
    """Return the kind of a line of Markdown; `previous` is the kind of the line before it."""
    for kind, pattern in (("fence", "```"), ("heading", "#{1,6} "), ("table", r"\|")):
        if re.match(pattern, line):
            return kind
    is_list = re.match(r" *([-*+]|\d+\.) ", line) or (previous == "list" and line[0] == " ")
    return "list" if is_list else "text"


def write(section: str, command: str, text: str, page: Path = PAGE) -> None:
    """Write a section to the end of the page and remove the old section with its title."""
    old = page.read_text() if page.is_file() else _HEAD
    sections = re.split(r"(?m)^(?=## )", old)
    body = spaced(f"## {section}\n`{command}` on {machine()}.\n\n{text}")
    others = [part for part in sections[1:] if not part.startswith(f"## {section}\n")]
    parts = [part.strip() for part in (sections[0], *others, body)]
    page.write_text("\n\n".join(parts) + "\n")
