"""A build that needs more memory than is free."""

from __future__ import annotations

from pathlib import Path

import pytest

from export import build, capacity
from tests.export.repository_of_tiny import job
from tests.export.weights import random_checkpoint, tiny


def test_a_build_that_memory_will_not_hold_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_checkpoint(tiny(), tmp_path)
    monkeypatch.setattr(capacity, "EXPORT_BYTES", 10**9)
    with pytest.raises(ValueError, match=r"memory: building tiny needs .* GB and .* GB are free"):
        build.build(job(tiny(), tmp_path))
    assert not (tmp_path / "models").exists()
