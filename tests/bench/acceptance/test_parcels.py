"""Parcels: written, brought one after the other, damaged, put together."""

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
    """Return a folder with parcels of two archives, and the empty one that they are brought to."""
    source, sent, arrived = (tmp_path / name for name in ("source", "sent", "arrived"))
    for folder in (source, sent, arrived):
        folder.mkdir()
    members = []
    for name in ("tree/pyproject.toml", "tree/client/pyproject.toml", "tree/scripts/_venv"):
        path = source / name.replace("/", "-")
        path.write_bytes(random.Random(name).randbytes(5000))
        members.append((name, path))
    path.chmod(0o755)
    (source / "late.so").write_bytes(bytes(100_000) + random.Random(1).randbytes(9000))
    archives = [
        parcels.write(sent, "1-base", LIMIT, members),
        parcels.write(sent, "2-more", LIMIT, [("site/late/late.so", source / "late.so")]),
    ]
    (sent / parcels.MANIFEST).write_text(json.dumps({"python": HERE, "archives": archives}))
    return sent, arrived


def bring(sent: Path, arrived: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in sent.glob(pattern):
            (arrived / path.name).write_bytes(path.read_bytes())


def test_parcels_come_little_by_little(parcel: tuple[Path, Path]) -> None:
    sent, arrived = parcel
    files = sorted(path for path in sent.iterdir() if path.name != parcels.MANIFEST)
    assert len(files) == 7 and all(path.stat().st_size <= LIMIT for path in files)

    bring(sent, arrived, "manifest.json", "*.000", "*.001")
    assert parcels.unpack(arrived) == ["1-base.002", "1-base.003", "2-more.002"]
    assert not (arrived / parcels.TREE).exists()
    bring(sent, arrived, "1-base.*")
    assert parcels.unpack(arrived) == ["2-more.002"]
    tree = arrived / parcels.TREE
    assert (tree / "scripts/_venv").stat().st_mode & 0o100
    (tree / "kept").touch()  # what is installed is not installed again
    for path in arrived.glob("1-base.0*"):
        path.unlink()
    bring(sent, arrived, "2-more.*")
    assert parcels.unpack(arrived) == []
    assert (tree / "kept").exists()
    site = tree / ".venv" / "lib" / f"python{HERE}" / "site-packages"
    assert (site / "late/late.so").read_bytes()[:100_000] == bytes(100_000)
    # As scripts/_venv computes it, so that it installs nothing.
    assert len((tree / ".venv" / "acceptance.stamp").read_text()) == 64 + len("  -\n")


def test_a_damaged_parcel_is_named(
    parcel: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    sent, arrived = parcel
    bring(sent, arrived, "*")
    path = arrived / "1-base.001"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert parcels.main(["--unpack", str(arrived)]) == 1
    assert capsys.readouterr().err.startswith("acceptance: 1-base.001 has 4096 bytes and another")
    bring(sent, arrived, "1-base.001")
    assert parcels.main(["--unpack", str(arrived)]) == 0


def test_a_folder_that_is_not_empty_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(SystemExit):
        pack.main(["--pack", str(tmp_path)])
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
