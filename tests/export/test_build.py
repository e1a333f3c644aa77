"""Builds: what is kept, what is refused, and that a failure leaves the repository as it was."""

from __future__ import annotations

import copy
import dataclasses
import fcntl
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from backends.slabs.chain import load
from export import build, graphs, networks, variant
from export.__main__ import main
from export.build import Job
from export.files import sha256
from tests.export.weights import random_checkpoint, tiny


def job(folder: Path) -> Job:
    return Job(tiny(), folder, folder / "models", folder / "cache")


def files(folder: Path) -> dict[str, str]:
    return {str(path): sha256(path) for path in folder.rglob("*") if path.is_file()}


def test_the_manifest_has_the_digest_of_every_file(tiny_repository: Path) -> None:
    models = tiny_repository / "models"
    manifest = json.loads((models / "tiny" / "1" / "manifest.json").read_text())
    assert set(manifest["graphs"]) == set(build.NEEDS) - {"mask_flow", "mask_decoder"}
    for name, graph in manifest["graphs"].items():
        assert graph["relative_error"] < 1e-5
        for file, about in graph["files"].items():
            path = models / f"tiny.{name}" / "1" / file
            assert about == {"sha256": sha256(path), "bytes": path.stat().st_size}
    for about in manifest["checkpoints"].values():
        assert about["sha256"] == sha256(tiny_repository / about["file"])


def test_a_second_build_exports_nothing(tiny_repository: Path) -> None:
    before = files(tiny_repository / "models")
    said: list[str] = []
    build.build(job(tiny_repository), said.append)
    assert len([line for line in said if "kept from an earlier build" in line]) == 5
    assert not any("relative error" in line for line in said)
    assert said[-1] == f"tiny: {tiny_repository / 'models'} has it already"
    assert files(tiny_repository / "models") == before


def test_what_differs_in_its_configuration_or_lacks_a_file_is_written_again(
    tmp_path: Path, tiny_repository: Path
) -> None:
    def again(**changes: Any) -> str:
        said: list[str] = []
        build.build(dataclasses.replace(here, **changes), said.append)
        return said[-1]

    models = tmp_path / "models"
    shutil.copytree(tiny_repository / "models", models)
    here = dataclasses.replace(job(tiny_repository), repository=models)
    assert again().endswith("has it already")
    smaller = build.limit(tiny(), (64, 64, 64))
    assert again(variant=smaller) == f"tiny: written to {models}"
    assert again(variant=smaller).endswith("has it already")
    (models / "tiny.flow" / "1" / "model.onnx").unlink()
    assert again(variant=smaller) == f"tiny: written to {models}"


def test_builds_with_one_cache_wait_for_each_other(tiny_repository: Path) -> None:
    said: list[str] = []
    with (tiny_repository / "cache" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = threading.Thread(target=build.build, args=(job(tiny_repository), said.append))
        other.start()
        other.join(1)
        assert other.is_alive() and not said
    other.join(60)
    assert said[-1].endswith("has it already")


def test_a_graph_is_known_by_its_weights_its_networks_and_the_precision() -> None:
    chosen = tiny()
    digests = dict.fromkeys(chosen.networks, "0")
    flow = build.key(chosen, "flow", digests, "fp32")
    assert flow != build.key(chosen, "flow", digests, "fp16")
    assert flow != build.key(chosen, "flow", {**digests, "diffusion_unet": "1"}, "fp32")
    assert flow == build.key(chosen, "flow", {**digests, "controlnet": "1"}, "fp32")
    wider = {**chosen.networks, "diffusion_unet": {**chosen.networks["diffusion_unet"], "a": 1}}
    assert flow != build.key(dataclasses.replace(chosen, networks=wider), "flow", digests, "fp32")


def test_only_what_changed_is_exported_again(tmp_path: Path, tiny_repository: Path) -> None:
    random_checkpoint(tiny(), tmp_path, seed=0)
    other = tmp_path / "other"
    random_checkpoint(tiny(), other, seed=1)
    name = tiny().checkpoints["autoencoder"]
    (tmp_path / name).write_bytes((other / name).read_bytes())
    said: list[str] = []
    changed = dataclasses.replace(job(tiny_repository), checkpoints=tmp_path)
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
        job(tmp_path), variant=chosen, target="tensorrt-rtx", capabilities=("8.9",)
    )
    folder = tmp_path / "cache" / "graph"
    folder.mkdir(parents=True)
    build._export(here, graph, folder, str)
    said: list[str] = []
    homes = build.compile_engines(here, {"mask_encoder": folder}, "1.7", said.append)
    plans = homes["mask_encoder"]
    chain = load(plans / "chain.json", lambda stem: None)
    assert chain.thickest == 7  # of labels' bits in two rows, 16 * (4 * 7 + 2) * 2048 ** 2
    for stage in range(len(chain.stages)):
        about = json.loads((plans / f"{stage:02}.plan.json").read_text())
        planes = chain.planes[chain.stages[stage].input]
        assert about["inputs"]["x"]["max"][2] == 7 * planes + 2
        assert f"{stage:02}.plan of " in said[stage]
        assert f"at most {about['activation_bytes'] / 1e9:.2f} GB" in said[stage]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "truncated"),
    ],
)
def test_a_bad_checkpoint_leaves_the_repository_as_it_was(
    damage: object, sentence: str, tmp_path: Path, tiny_repository: Path
) -> None:
    random_checkpoint(tiny(), tmp_path)
    assert callable(damage)
    damage(tmp_path / tiny().checkpoints["controlnet"])
    before = files(tiny_repository / "models")
    bad = dataclasses.replace(job(tiny_repository), checkpoints=tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        build.build(bad)
    assert files(tiny_repository / "models") == before


def test_a_build_that_memory_will_not_hold_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_checkpoint(tiny(), tmp_path)
    monkeypatch.setattr(build, "EXPORT_BYTES", 10**9)
    with pytest.raises(ValueError, match=r"memory: building tiny needs .* GB and .* GB are free"):
        build.build(job(tmp_path))
    assert not (tmp_path / "models").exists()


def test_a_limit_is_published_and_must_fit() -> None:
    limited = build.limit(variant.load("mini"), (128, 128, 96))
    assert limited.serving["size"]["max"] == [128, 128, 96]
    assert limited.serving["size"]["max_voxels"] == 128 * 128 * 96
    assert variant.load("mini").serving["size"]["max"] == [256, 256, 256]
    for size in ((128, 128, 100), (16, 128, 128), (128, 128, 512)):
        with pytest.raises(ValueError, match=r"max-size: .* must be multiples of 16 from"):
            build.limit(variant.load("mini"), size)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing"], "variant: 'nothing' is not one of"),
        (["build", "rflow-ct", "--checkpoints", "/nowhere"], "checkpoint: /nowhere/models/"),
        (["build", "mini", "--max-size", "8,8,8"], "max-size: 8,8,8 must be multiples of 16"),
        (["verify", "mini", "--checkpoints", "/nowhere"], "checkpoint: /nowhere/mini/"),
    ],
)
def test_failures_are_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("export: ")
    assert sentence in error
    assert error.count("\n") == 1
