"""Models that these tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.export.repository_of_tiny import exported


@pytest.fixture(scope="session")
def tiny_repository() -> Path:
    """Return a folder with the checkpoints and, in `models/`, the export of a small variant."""
    return Path(exported().name)
