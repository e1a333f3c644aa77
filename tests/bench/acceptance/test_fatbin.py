"""A library of CUDA's layout, without the code for other GPUs."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from bench.acceptance import fatbin


def container(*entries: tuple[int, bytes]) -> bytes:
    body = b""
    for arch, code in entries:
        head = struct.pack("<HHIQ", 2, 0x101, 64, len(code)).ljust(28, b"\0")
        body += (head + struct.pack("<I", arch)).ljust(64, b"\0") + code
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def library(section: bytes) -> bytes:
    names = b"\0.nv_fatbin\0.names\0"
    table = 64 + len(section) + len(names)
    head = b"\x7fELF\x02".ljust(0x28, b"\0") + struct.pack("<Q", table)
    head = head.ljust(0x3A, b"\0") + struct.pack("<HHH", 64, 2, 1)
    rows = ((1, 64, len(section)), (12, 64 + len(section), len(names)))
    sections = [
        struct.pack("<IIQQQQ", n, 1, 0, 0, at, size).ljust(64, b"\0") for n, at, size in rows
    ]
    return head + section + names + b"".join(sections)


def test_code_for_other_gpus_becomes_zeros_where_there_is_some_for_this(tmp_path: Path) -> None:
    both = container((80, b"A" * 32), (90, b"H" * 48))
    other = container((120, b"B" * 24))
    path = tmp_path / "library.so"
    path.write_bytes(library(both + bytes(8) + other))
    assert fatbin.keep(path, "9.0") == 32
    assert path.read_bytes() == library(both.replace(b"A", b"\0") + bytes(8) + other)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"text", "not an ELF file of 64 bits"),
        (library(b"").replace(b"nv_", b"nx_"), "no section .nv_fatbin"),
        (library(container((90, b"H" * 48))[:-8]), "laid out"),
    ],
)
def test_what_is_no_such_library_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "library.so"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        fatbin.keep(path, "9.0")
