"""The cache: keys, reuse, and the plans of a chain."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from backends.slabs.chain import load
from export import build, cache, graphs, networks
from tests.export.repository_of_tiny import job, official
from tests.export.weights import random_checkpoint, tiny


def test_a_graph_is_known_by_its_weights_its_networks_and_the_precision() -> None:
    variant = tiny()
    digests = dict.fromkeys(variant.networks, "0")
    flow = cache.graph_key(variant, "flow", digests, "fp32")
    assert flow != cache.graph_key(variant, "flow", digests, "fp16")
    assert flow != cache.graph_key(variant, "flow", {**digests, "diffusion_unet": "1"}, "fp32")
    assert flow == cache.graph_key(variant, "flow", {**digests, "controlnet": "1"}, "fp32")
    wider = {**variant.networks, "diffusion_unet": {**variant.networks["diffusion_unet"], "a": 1}}
    assert flow != cache.graph_key(
        dataclasses.replace(variant, networks=wider), "flow", digests, "fp32"
    )


def test_graphs_of_another_exporter_are_not_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = tiny()
    digests = dict.fromkeys(variant.networks, "0")
    key = cache.graph_key(variant, "vae_decoder", digests, "fp32")
    for file in cache._SOURCES:
        shutil.copy(Path(cache.__file__).with_name(file), tmp_path)
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "cache.py"))
    assert cache.graph_key(variant, "vae_decoder", digests, "fp32") == key
    source = tmp_path / "subgraph_onnx.py"
    source.write_text(source.read_text().replace('"subgraphs"', '"stages"'))
    assert cache.graph_key(variant, "vae_decoder", digests, "fp32") != key


def test_what_a_killed_build_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".part-killed" / "whole").mkdir(parents=True)
    with cache.locked(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_only_what_changed_is_exported_again(tmp_path: Path, official_repository: Path) -> None:
    variant, other = official("tiny-ddpm"), tmp_path / "other"
    random_checkpoint(variant, tmp_path, seed=0)
    random_checkpoint(variant, other, seed=1)
    name = variant.checkpoints["autoencoder"]
    (tmp_path / name).write_bytes((other / name).read_bytes())
    lines: list[str] = []
    first = job(variant, official_repository)
    models = tmp_path / "models"
    second = dataclasses.replace(first, checkpoints=tmp_path, repository=models)
    build.build(second, lines.append)
    exported = {line.split(":")[0] for line in lines if "relative error" in line}
    assert exported == {"tiny-ddpm.vae_decoder", "tiny-ddpm.vae_encoder"}


@pytest.mark.slow
def test_plans_of_a_chain_say_how_thick_its_slabs_may_be(tmp_path: Path) -> None:
    random_checkpoint(tiny(), tmp_path)
    graph = graphs.graphs(tiny(), networks.load(tiny(), tmp_path))[0]
    assert graph.name == "mask_encoder"
    serving = copy.deepcopy(tiny().serving)
    serving["size"]["max"] = [256, 2048, 2048]
    large = job(dataclasses.replace(tiny(), serving=serving), tmp_path)
    large = dataclasses.replace(large, target="tensorrt-rtx", capabilities=("8.9",))
    folder = tmp_path / "cache" / "graph"
    folder.mkdir(parents=True)
    cache._export(large, graph, folder, str)
    lines: list[str] = []
    folders = cache.build_engines(large, {"mask_encoder": folder}, "1.7", lines.append)
    plans = folders["mask_encoder"]
    chain = load(plans / "chain.json", lambda stem: None)
    assert chain.thickest == 7  # of labels' bits in two rows, 16 * (4 * 7 + 2) * 2048 ** 2
    for number in range(len(chain.subgraphs)):
        description = json.loads((plans / f"{number:02}.plan.json").read_text())
        planes = chain.planes[chain.subgraphs[number].input]
        assert description["inputs"]["x"]["max"][2] == 7 * planes + 2
        assert f"{number:02}.plan of " in lines[number]
        assert f"at most {description['activation_bytes'] / 1e9:.2f} GB" in lines[number]
