"""The comparison accepts a good export, and rejects a bad one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from export import cache, verify
from export.__main__ import main
from export.graphs import NEEDS
from export.job import checkpoint_digests
from tests.export.repository_of_tiny import official
from tests.export.weights import TINY


@pytest.mark.parametrize("name", ["tiny-brain", pytest.param("tiny-ddpm", marks=pytest.mark.slow)])
def test_every_graph_and_volume_is_compared_and_holds(official_repository: Path, name: str) -> None:
    variant = official(name)
    comparisons = verify.verify(
        variant, official_repository, official_repository / "cache", lambda line: None
    )
    graphs = {comparison.what for comparison in comparisons if comparison.size.startswith("latent")}
    assert graphs == {graph for graph, roles in NEEDS.items() if has(name, roles)}
    volumes = ["image alone", "from a mask"] if name == "tiny-ddpm" else ["image alone"]
    assert {comparison.what for comparison in comparisons} - graphs == set(volumes)
    assert {comparison.against.split()[-1] for comparison in comparisons} == {"fp32", "fp16"}
    assert all(comparison.holds for comparison in comparisons), verify.table(comparisons)
    content = json.loads(verify.as_json(variant, comparisons))
    assert content["holds"] and len(content["rows"]) == len(comparisons)


def has(name: str, roles: tuple[str, ...]) -> bool:
    return set(roles) <= set(official(name).networks)


@pytest.mark.slow
def test_a_graph_of_other_weights_fails(
    official_repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variant, copy = official("tiny-brain"), tmp_path / "cache"
    with cache.locked(official_repository / "cache"):  # other processes use it, too
        shutil.copytree(official_repository / "cache", copy)
    key = cache.graph_key(variant, "flow", checkpoint_digests(variant, official_repository), "fp32")
    path = copy / key / "model.onnx"
    model = onnx.load(path)
    largest = max(model.graph.initializer, key=lambda weight: len(weight.raw_data))
    weight = numpy_helper.to_array(largest)
    scaled = (1.01 * weight).astype(weight.dtype)
    largest.CopyFrom(numpy_helper.from_array(scaled, largest.name))
    onnx.save(model, path)
    words = ["verify", str(TINY / "tiny-brain.toml"), "--checkpoints", str(official_repository)]
    assert main([*words, "--cache", str(copy), "--json", str(tmp_path / "rows.json")]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if "FAILS" in line]
    assert failed
    assert all("fp32" in line and ("flow" in line or "image" in line) for line in failed)
    content = json.loads((tmp_path / "rows.json").read_text())
    assert not content["holds"]
    assert sum(not row["holds"] for row in content["rows"]) == len(failed)
