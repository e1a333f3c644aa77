"""The manifest of a build."""

from __future__ import annotations

import json
from pathlib import Path

from export.files import sha256
from export.graphs import NEEDS


def test_the_manifest_has_the_digest_of_every_file(tiny_repository: Path) -> None:
    models = tiny_repository / "models"
    manifest = json.loads((models / "tiny" / "1" / "manifest.json").read_text())
    assert set(manifest["graphs"]) == set(NEEDS) - {"mask_flow", "mask_decoder"}
    for name, graph in manifest["graphs"].items():
        assert graph["relative_error"] < 1e-5
        for file, about in graph["files"].items():
            path = models / f"tiny.{name}" / "1" / file
            assert about == {"sha256": sha256(path), "bytes": path.stat().st_size}
    for about in manifest["checkpoints"].values():
        assert about["sha256"] == sha256(tiny_repository / about["file"])
