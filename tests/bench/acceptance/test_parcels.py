"""Parcels: written, copied one after the other, damaged, put together."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

from bench.acceptance import pack, parcels

LIMIT = 4 << 10
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def parcel(tmp_path: Path) -> tuple[Path, Path]:
    """Return a folder with parcels of two archives, and an empty one to copy them to."""
    source, packed, copied = (tmp_path / name for name in ("source", "packed", "copied"))
    for folder in (source, packed, copied):
        folder.mkdir()
    members = []
    for name in ("tree/pyproject.toml", "tree/client/pyproject.toml", "tree/scripts/_venv"):
        path = source / name.replace("/", "-")
        path.write_bytes(random.Random(name).randbytes(5000))
        members.append((name, path))
    path.chmod(0o755)
    (source / "late.so").write_bytes(bytes(100_000) + random.Random(1).randbytes(9000))
    archives = [
        parcels.write(packed, "1-base", LIMIT, members),
        parcels.write(packed, "2-more", LIMIT, [("site/late/late.so", source / "late.so")]),
    ]
    (packed / parcels.MANIFEST).write_text(json.dumps({"python": HERE, "archives": archives}))
    return packed, copied


def copy(packed: Path, copied: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in packed.glob(pattern):
            (copied / path.name).write_bytes(path.read_bytes())


def test_parcels_arrive_one_by_one(parcel: tuple[Path, Path]) -> None:
    packed, copied = parcel
    files = sorted(path for path in packed.iterdir() if path.name != parcels.MANIFEST)
    assert len(files) == 7 and all(path.stat().st_size <= LIMIT for path in files)

    copy(packed, copied, "manifest.json", "*.000", "*.001")
    assert parcels.unpack(copied) == ["1-base.002", "1-base.003", "2-more.002"]
    assert not (copied / parcels.TREE).exists()
    copy(packed, copied, "1-base.*")
    assert parcels.unpack(copied) == ["2-more.002"]
    tree = copied / parcels.TREE
    assert (tree / "scripts/_venv").stat().st_mode & 0o100
    (tree / "untouched").touch()  # installed archives are not installed again
    for path in copied.glob("1-base.0*"):
        path.unlink()
    copy(packed, copied, "2-more.*")
    assert parcels.unpack(copied) == []
    assert (tree / "untouched").exists()
    site = tree / ".venv" / "lib" / f"python{HERE}" / "site-packages"
    assert (site / "late/late.so").read_bytes()[:100_000] == bytes(100_000)
    # As scripts/_venv computes it, so that it installs nothing.
    assert len((tree / ".venv" / "acceptance.stamp").read_text()) == 64 + len("  -\n")


def test_a_damaged_parcel_is_named(
    parcel: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    packed, copied = parcel
    copy(packed, copied, "*")
    path = copied / "1-base.001"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert parcels.main(["--unpack", str(copied)]) == 1
    assert capsys.readouterr().err.startswith("acceptance: 1-base.001 is damaged: it has 4096")
    copy(packed, copied, "1-base.001")
    assert parcels.main(["--unpack", str(copied)]) == 0


def test_a_folder_that_is_not_empty_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(SystemExit):
        pack.main(["--pack", str(tmp_path)])
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
