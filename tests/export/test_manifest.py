"""The manifest of a build."""

from __future__ import annotations

import json
from pathlib import Path

from export.files import sha256
from export.graphs import NEEDS


def test_the_manifest_has_the_digest_of_every_file(official_repository: Path) -> None:
    models = official_repository / "models"
    manifest = json.loads((models / "tiny-ddpm" / "1" / "manifest.json").read_text())
    assert set(manifest["graphs"]) == set(NEEDS)
    for name, graph in manifest["graphs"].items():
        # Labels: the share of voxels where another of nearly equal scores is the largest.
        assert graph["relative_error"] < (1e-4 if name == "mask_decoder" else 1e-5)
        for file, entry in graph["files"].items():
            path = models / f"tiny-ddpm.{name}" / "1" / file
            assert entry == {"sha256": sha256(path), "bytes": path.stat().st_size}
    for entry in manifest["checkpoints"].values():
        assert entry["sha256"] == sha256(official_repository / entry["file"])
