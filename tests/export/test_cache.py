"""The cache: keys, reuse, and the plans of a chain."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

from backends.slabs.chain import load
from export import build, cache, graphs, networks
from tests.export.repository_of_tiny import tiny_job
from tests.export.weights import random_checkpoint, tiny


def test_a_graph_is_known_by_its_weights_its_networks_and_the_precision() -> None:
    chosen = tiny()
    digests = dict.fromkeys(chosen.networks, "0")
    flow = cache.key(chosen, "flow", digests, "fp32")
    assert flow != cache.key(chosen, "flow", digests, "fp16")
    assert flow != cache.key(chosen, "flow", {**digests, "diffusion_unet": "1"}, "fp32")
    assert flow == cache.key(chosen, "flow", {**digests, "controlnet": "1"}, "fp32")
    wider = {**chosen.networks, "diffusion_unet": {**chosen.networks["diffusion_unet"], "a": 1}}
    assert flow != cache.key(dataclasses.replace(chosen, networks=wider), "flow", digests, "fp32")


def test_only_what_changed_is_exported_again(tmp_path: Path, tiny_repository: Path) -> None:
    random_checkpoint(tiny(), tmp_path, seed=0)
    other = tmp_path / "other"
    random_checkpoint(tiny(), other, seed=1)
    name = tiny().checkpoints["autoencoder"]
    (tmp_path / name).write_bytes((other / name).read_bytes())
    said: list[str] = []
    changed = dataclasses.replace(tiny_job(tiny_repository), checkpoints=tmp_path)
    changed = dataclasses.replace(changed, repository=tmp_path / "models")
    build.build(changed, said.append)
    exported = {line.split(":")[0] for line in said if "relative error" in line}
    assert exported == {"tiny.vae_decoder", "tiny.vae_encoder"}


def test_plans_of_a_chain_say_how_thick_its_slabs_may_be(tmp_path: Path) -> None:
    random_checkpoint(tiny(), tmp_path)
    graph = graphs.graphs(tiny(), networks.load(tiny(), tmp_path))[0]
    assert graph.name == "mask_encoder"
    serving = copy.deepcopy(tiny().serving)
    serving["size"]["max"] = [256, 2048, 2048]
    chosen = dataclasses.replace(tiny(), serving=serving)
    here = dataclasses.replace(
        tiny_job(tmp_path), variant=chosen, target="tensorrt-rtx", capabilities=("8.9",)
    )
    folder = tmp_path / "cache" / "graph"
    folder.mkdir(parents=True)
    cache._export(here, graph, folder, str)
    said: list[str] = []
    homes = cache.build_engines(here, {"mask_encoder": folder}, "1.7", said.append)
    plans = homes["mask_encoder"]
    chain = load(plans / "chain.json", lambda stem: None)
    assert chain.thickest == 7  # of labels' bits in two rows, 16 * (4 * 7 + 2) * 2048 ** 2
    for stage in range(len(chain.stages)):
        about = json.loads((plans / f"{stage:02}.plan.json").read_text())
        planes = chain.planes[chain.stages[stage].input]
        assert about["inputs"]["x"]["max"][2] == 7 * planes + 2
        assert f"{stage:02}.plan of " in said[stage]
        assert f"at most {about['activation_bytes'] / 1e9:.2f} GB" in said[stage]
