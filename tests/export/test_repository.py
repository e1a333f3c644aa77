"""Configurations and files of a variant's models, for every target and precision."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2 as pb

from export import model_configs, repository
from export.variant import Variant
from tests.conftest import PATIENCE
from tests.export.repository_of_tiny import official, read_config
from tests.export.weights import tiny

ENGINES = ["mask_encoder", "flow", "flow_masked", "vae_decoder", "vae_encoder"]
PIPELINE = ["stream", "condition", "sampler", "decoder"]


def write_files(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(name.encode())
    return [folder / name for name in names]


def files(variant: Variant, folder: Path, *names: str) -> dict[str, list[Path]]:
    """Return made-up files for every engine of `chosen`."""
    models = model_configs.configs(variant, {}, "onnx", "fp32").values()
    paths = {}
    for model in models:
        short = model.name.split(".")[-1]
        if model.backend == "slabs":
            paths[short] = write_files(folder / short, "00.onnx", "chain.json")
        elif model.backend == "onnxruntime":
            paths[short] = write_files(folder / short, *names)
    return paths


def test_files_are_linked_beside_each_other(tmp_path: Path) -> None:
    engine_files = files(tiny(), tmp_path / "made", "model.onnx", "model.onnx.data")
    target = tmp_path / "models"
    repository.write(target, tiny(), {"autoencoder": "1"}, engine_files, "onnx", "fp32")
    for short, paths in engine_files.items():
        for path in paths:
            assert os.path.samefile(path, target / f"tiny.{short}" / "1" / path.name)
    assert (target / "tiny.sampler" / "1" / ".gitkeep").is_file()
    assert [path.name for path in target.glob(".*")] == [".lock"]


def test_models_are_replaced_when_no_other_process_does(tmp_path: Path) -> None:
    engine_files = files(tiny(), tmp_path / "made", "model.onnx")
    target = tmp_path / "models"
    target.mkdir()
    (target / "tiny.flow").symlink_to(tmp_path / "gone")
    with (target / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = threading.Thread(
            target=lambda: repository.write(target, tiny(), {}, engine_files, "onnx", "fp32")
        )
        other.start()
        other.join(1)
        assert other.is_alive() and not list(target.glob("tiny*/config.pbtxt"))
    other.join(PATIENCE)
    assert (target / "tiny.flow" / "1" / "model.onnx").is_file()


@pytest.mark.parametrize("calls", range(8))
def test_an_interrupted_build_leaves_the_models_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    target = tmp_path / "models"
    before = files(tiny(), tmp_path / "made", "model.onnx")
    repository.write(target, tiny(), {}, before, "onnx", "fp32")
    configs = {path: path.read_bytes() for path in target.glob("*/config.pbtxt")}
    replace, left = os.replace, [calls]

    def interrupted(source: Path, place: Path) -> None:
        left[0] -= 1
        if left[0] == -1:
            raise KeyboardInterrupt
        replace(source, place)

    new = files(tiny(), tmp_path / "new", "model.onnx")
    with monkeypatch.context() as failing:
        failing.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            repository.write(target, tiny(), {"autoencoder": "2"}, new, "onnx", "fp32", 2)
    assert {path: path.read_bytes() for path in target.glob("*/config.pbtxt")} == configs
    (target / ".tiny-killed").mkdir()
    repository.write(target, tiny(), {"autoencoder": "2"}, new, "onnx", "fp32", 2)
    assert [path.name for path in target.glob(".*")] == [".lock"]
    assert (target / "tiny.flow" / "1").is_dir() and (target / "tiny.flow" / "2").is_dir()


def test_another_file_system_gets_copies(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm")
    if os.stat(elsewhere).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("one file system here")
    engine_files = files(tiny(), tmp_path / "made", "model.onnx")
    target = elsewhere / f"maisi-test-{os.getpid()}"
    try:
        repository.write(target, tiny(), {}, engine_files, "onnx", "fp32")
        assert (target / "tiny.flow" / "1" / "model.onnx").read_bytes() == b"model.onnx"
    finally:
        shutil.rmtree(target)


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_plans_of_several_gpus_are_chosen_by_their_compute_capability(
    tmp_path: Path, target: str
) -> None:
    engine_files = files(tiny(), tmp_path / "made", "model_sm86.plan", "model_sm120.plan")
    repository.write(tmp_path / "models", tiny(), {}, engine_files, target, "fp16")
    assert read_config(tmp_path / "models" / "tiny.flow").backend == "tensorrt_rtx"  # which chooses
    version = tmp_path / "models" / "tiny.flow" / "1"
    assert {path.name for path in version.iterdir()} == {"model_sm86.plan", "model_sm120.plan"}


def test_writing_again_replaces_whole_models_and_removes_those_no_longer_there(
    tmp_path: Path,
) -> None:
    target = tmp_path / "models"
    engine_files = files(official("tiny-ddpm"), tmp_path / "made", "model.onnx")
    repository.write(target, official("tiny-ddpm"), {}, engine_files, "onnx", "fp32")
    (target / "tiny-ddpm.flow" / "1" / "stale").touch()
    for other in ("other", "tiny-ddpm.notes", "tiny-ddpm-2.mask_flow"):
        (target / other).mkdir()
        (target / other / "config.pbtxt").write_text(f'name: "{other}"')
    smaller = official("tiny-ddpm")
    for role in ("mask_autoencoder", "mask_diffusion"):
        del smaller.networks[role]
    new = files(smaller, tmp_path / "newer", "model.onnx")
    new["flow"][0].write_bytes(b"new")
    repository.write(target, smaller, {}, new, "onnx", "fp32")
    assert (target / "tiny-ddpm.flow" / "1" / "model.onnx").read_bytes() == b"new"
    assert not (target / "tiny-ddpm.flow" / "1" / "stale").exists()
    names = {path.name for path in target.glob("[!.]*")}
    models = {"tiny-ddpm", *(f"tiny-ddpm.{model}" for model in (*PIPELINE, *ENGINES))}
    assert names == {*models, "other", "tiny-ddpm.notes", "tiny-ddpm-2.mask_flow"}


def test_versions_lie_beside_each_other_each_with_its_configuration(tmp_path: Path) -> None:
    target = tmp_path / "models"
    for version, digest in ((1, "old"), (3, "new"), (2, "between")):
        engine_files = files(tiny(), tmp_path / digest, "model.onnx")
        engine_files["flow"][0].write_text(digest)
        repository.write(
            target, tiny(), {"autoencoder": digest}, engine_files, "onnx", "fp32", version=version
        )
    flow = target / "tiny.flow"
    contents = {path.parent.name: path.read_text() for path in flow.glob("*/model.onnx")}
    assert contents == {"1": "old", "2": "between", "3": "new"}
    for folder in target.glob("tiny*"):
        for version, digest in ((1, "old"), (2, "between"), (3, "new")):
            text = (folder / "configs" / f"{version}.pbtxt").read_text()
            pinned = text_format.Parse(text, pb.ModelConfig())
            assert list(pinned.version_policy.specific.versions) == [version]
            if "variant" in pinned.parameters:
                published = json.loads(pinned.parameters["variant"].string_value)
                assert published["weights"] == {"autoencoder": digest}
    newest = json.loads(read_config(target / "tiny").parameters["variant"].string_value)
    assert newest["weights"] == {"autoencoder": "new"}
    assert not read_config(target / "tiny").HasField("version_policy")


def test_versions_have_the_same_models(tmp_path: Path) -> None:
    target, variant = tmp_path / "models", official("tiny-ddpm")
    engine_files = files(variant, tmp_path / "made", "model.onnx")
    repository.write(target, variant, {}, engine_files, "onnx", "fp32")
    smaller = official("tiny-ddpm")
    for role in ("mask_autoencoder", "mask_diffusion"):
        del smaller.networks[role]
    new = files(smaller, tmp_path / "newer", "model.onnx")
    with pytest.raises(ValueError, match="version: 2 of tiny-ddpm has other models than"):
        repository.write(target, smaller, {}, new, "onnx", "fp32", version=2)
    assert not list(target.glob("*/2"))


def test_an_engine_without_a_file_leaves_the_repository_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "models"
    engine_files = files(tiny(), tmp_path / "made", "model.onnx")
    repository.write(target, tiny(), {}, engine_files, "onnx", "fp32")
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    del engine_files["vae_decoder"]
    with pytest.raises(ValueError, match=r"tiny\.vae_decoder: no chain\.json was made for it"):
        repository.write(target, tiny(), {"autoencoder": "2"}, engine_files, "onnx", "fp32")
    engine_files["vae_decoder"] = [tmp_path / "gone" / "model.onnx"]
    with pytest.raises(FileNotFoundError):
        repository.write(target, tiny(), {"autoencoder": "2"}, engine_files, "onnx", "fp32")
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before
