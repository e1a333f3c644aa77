"""The root of the source tree, and digests of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = 1 << 20


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file of any size, as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
