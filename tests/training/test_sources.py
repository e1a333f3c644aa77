"""Surfaces become masks; a download that is another file is refused."""

from __future__ import annotations

import io
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"other"))
    with pytest.raises(ValueError, match="sha256"):
        sources.pycortex_subject(tmp_path)
    assert list(tmp_path.iterdir()) == []
