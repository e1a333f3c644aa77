"""The proof holds for a good export, and does not for a bad one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from export import verify
from export.__main__ import main
from export.graphs import NEEDS
from export.job import checkpoint_digests
from tests.export.repository_of_tiny import TINY, exported_official, official


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(exported_official().name)


@pytest.mark.parametrize("name", ["tiny-brain", pytest.param("tiny-ddpm", marks=pytest.mark.slow)])
def test_every_graph_and_volume_is_compared_and_holds(folder: Path, name: str) -> None:
    chosen = official(name)
    rows = verify.verify(chosen, folder, folder / "cache", lambda line: None)
    graphs = {row.what for row in rows if row.size.startswith("latent")}
    assert graphs == {graph for graph, roles in NEEDS.items() if has(name, roles)}
    volumes = ["image alone", "from a mask"] if name == "tiny-ddpm" else ["image alone"]
    assert {row.what for row in rows} - graphs == set(volumes)
    assert {row.against.split()[-1] for row in rows} == {"fp32", "fp16"}
    assert all(row.holds for row in rows), verify.table(rows)
    told = json.loads(verify.as_json(chosen, rows))
    assert told["holds"] and len(told["rows"]) == len(rows)


def has(name: str, roles: tuple[str, ...]) -> bool:
    return set(roles) <= set(official(name).networks)


@pytest.mark.slow
def test_a_graph_of_other_weights_fails(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen, cache = official("tiny-brain"), tmp_path / "cache"
    shutil.copytree(folder / "cache", cache)
    key = cache.key(chosen, "flow", checkpoint_digests(chosen, folder), "fp32")
    path = cache / key / "model.onnx"
    model = onnx.load(path)
    largest = max(model.graph.initializer, key=lambda weight: len(weight.raw_data))
    weight = numpy_helper.to_array(largest)
    changed = (1.01 * weight).astype(weight.dtype)
    largest.CopyFrom(numpy_helper.from_array(changed, largest.name))
    onnx.save(model, path)
    words = ["verify", str(TINY / "tiny-brain.toml"), "--checkpoints", str(folder)]
    assert main([*words, "--cache", str(cache), "--json", str(tmp_path / "rows.json")]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if "FAILS" in line]
    assert failed
    assert all("fp32" in line and ("flow" in line or "image" in line) for line in failed)
    told = json.loads((tmp_path / "rows.json").read_text())
    assert not told["holds"]
    assert sum(not row["holds"] for row in told["rows"]) == len(failed)
