"""Clear the machine code in a CUDA library, except for one compute capability.

A CUDA library has its code in the ELF section `.nv_fatbin`, which is a sequence of containers. The
header of a container has 16 bytes: magic, version, size of the header, and number of bytes that
follow. A container has entries. The header of an entry begins with kind, version, size of the
header, and number of bytes that follow, and has the compute capability at byte 28 (90 for 9.0). The
driver uses the entry for its GPU. `keep` sets the content of all other entries to zeros, which
compress well. Entries keep their size, so that no address in the library changes.
"""

from __future__ import annotations

import struct
from pathlib import Path

_MAGIC = 0xBA55ED50
_CONTAINER = struct.Struct("<IHHQ")
_ENTRY = struct.Struct("<HHIQ")
_ARCH = 28
_WRONG = "the section .nv_fatbin is not laid out as expected"


def keep(path: Path, capability: str) -> int:
    """Clear the code for other compute capabilities in a library; return the cleared bytes.

    A container without code for `capability`, such as 9.0, does not change. Raises ValueError if
    the file is not a CUDA library.
    """
    content, number = bytearray(path.read_bytes()), int(capability.replace(".", ""))
    start, end = _section(content)
    cleared = 0
    while start + _CONTAINER.size <= end:
        magic, _, header, size = _CONTAINER.unpack_from(content, start)
        if magic != _MAGIC:  # padding between containers
            start += 8
            continue
        if start + header + size > end:
            raise ValueError(_WRONG)
        entries = _entries(content, start + header, start + header + size)
        if any(arch == number for arch, _, _ in entries):
            for arch, first, last in entries:
                if arch != number:
                    content[first:last] = bytes(last - first)
                    cleared += last - first
        start += header + size
    path.write_bytes(content)
    return cleared


def _entries(content: bytearray, start: int, end: int) -> list[tuple[int, int, int]]:
    """Return the compute capability of each entry, and the start and end of its content."""
    entries = []
    while start < end:
        _, _, header, size = _ENTRY.unpack_from(content, start)
        (arch,) = struct.unpack_from("<I", content, start + _ARCH)
        if header < _ARCH + 4 or start + header + size > end:
            raise ValueError(_WRONG)
        entries.append((arch, start + header, start + header + size))
        start += header + size
    return entries


def _section(content: bytearray) -> tuple[int, int]:
    """Return the start and the end of the section `.nv_fatbin` in the file."""
    if content[:5] != b"\x7fELF\x02":
        raise ValueError("not an ELF file of 64 bits")
    (table,) = struct.unpack_from("<Q", content, 0x28)
    size, count, names = struct.unpack_from("<HHH", content, 0x3A)

    def field(number: int) -> tuple[int, int, int]:
        name, _, _, _, offset, length = struct.unpack_from(
            "<IIQQQQ", content, table + number * size
        )
        return name, offset, length

    _, texts, _ = field(names)
    for number in range(count):
        name, offset, length = field(number)
        if content[texts + name : content.index(0, texts + name)] == b".nv_fatbin":
            return offset, offset + length
    raise ValueError("the library has no section .nv_fatbin")
