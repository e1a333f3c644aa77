"""Surfaces become masks; a download that is another file is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from training import sources


def test_a_closed_surface_encloses_its_voxels() -> None:
    corners = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    faces = np.array([[x, y, z] for x in (0, 1) for y in (2, 3) for z in (4, 5)], np.int32)
    inside = sources.inside_surface(5.5 * corners + 8.0, faces, (17, 18, 19))
    grid = np.indices((17, 18, 19)) - 8
    assert (inside == (np.abs(grid).sum(0) < 5.5)).all()


def test_another_file_than_pycortex_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    links, cache = tmp_path / "links", tmp_path / "cache"
    links.mkdir()
    (links / "pycortex-1.2.8.tar.gz").write_bytes(b"other")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    with pytest.raises(subprocess.CalledProcessError):
        sources.pycortex_subject(cache)
    assert "DO NOT MATCH THE HASHES" in capfd.readouterr().err
    assert not cache.exists()
