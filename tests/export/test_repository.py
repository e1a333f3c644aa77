"""Configurations and files of a variant's models, for every target and precision."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2 as pb

from export import repository, variant
from export.variant import Variant
from tests.conftest import ROOT
from tests.export.repository_of_tiny import official
from tests.export.weights import tiny

ENGINES = ["mask_encoder", "flow", "flow_masked", "vae_decoder", "vae_encoder"]
MASKS = ["mask_flow", "mask_decoder"]
ROOMS = ["stream", "condition", "sampler", "decoder"]


def config(folder: Path) -> pb.ModelConfig:
    text = (folder / "config.pbtxt").read_text()
    return text_format.Parse(text, pb.ModelConfig())


def made(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(name.encode())
    return [folder / name for name in names]


def files(chosen: Variant, folder: Path, *names: str) -> dict[str, list[Path]]:
    """Return made-up files for every engine of `chosen`."""
    models = repository.configs(chosen, {}, "onnx", "fp32").values()
    found = {}
    for model in models:
        short = model.name.split(".")[-1]
        if model.backend == "slabs":
            found[short] = made(folder / short, "00.onnx", "chain.json")
        elif model.backend == "onnxruntime":
            found[short] = made(folder / short, *names)
    return found


def shapes(tensors: Any) -> dict[str, tuple[str, list[int]]]:
    return {t.name: (pb.DataType.Name(t.data_type), list(t.dims)) for t in tensors}


@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("mini", [*ROOMS, *ENGINES]),
        ("rflow-ct", [*ROOMS, *ENGINES, *MASKS]),
        ("ddpm-ct", [*ROOMS, *ENGINES, *MASKS]),
        ("rflow-mr", [*ROOMS, "flow", "vae_decoder", "vae_encoder"]),
        ("rflow-mr-brain", [*ROOMS, "flow", "vae_decoder", "vae_encoder"]),
    ],
)
def test_a_variant_has_the_models_of_its_networks(name: str, models: list[str]) -> None:
    found = repository.configs(variant.load(name), {}, "onnx", "fp32")
    assert set(found) == {name, *(f"{name}.{model}" for model in models)}
    for model in found.values():
        assert model.max_batch_size == 0
        assert model.input and model.output
        # Triton dies of a text asked for as classes.
        assert not any(tensor.data_type == pb.TYPE_STRING for tensor in model.output)
    ensemble, stream = found[name], found[f"{name}.stream"]
    condition = found[f"{name}.condition"]
    assert shapes(ensemble.input) == shapes(condition.input)
    more = set(shapes(stream.input)) - set(shapes(condition.input))
    masks = {"redraws", "mask_only"} if f"{name}.mask_encoder" in found else set()
    assert more == {"check", *masks}
    assert shapes(stream.input).items() >= shapes(condition.input).items()
    assert all(tensor.optional for tensor in (*ensemble.input, *stream.input, *condition.input))


@pytest.mark.parametrize(
    ("name", "masks", "regions", "rows"),
    [
        ("mini", True, False, ["class_labels", "spacing_mm100"]),
        ("rflow-mr-brain", False, False, ["class_labels", "spacing_mm100"]),
        ("ddpm-ct", True, True, ["spacing_mm100", "top_region_index", "bottom_region_index"]),
    ],
)
def test_inputs_are_those_the_variant_understands(
    name: str, masks: bool, regions: bool, rows: list[str]
) -> None:
    models = repository.configs(variant.load(name), {}, "onnx", "fp32")
    asked = shapes(models[name].input)
    assert ("mask" in asked) == masks
    assert ("top_region" in asked) == ("bottom_region" in asked) == regions
    flow = shapes(models[f"{name}.flow"].input)
    assert [tensor for tensor in flow if tensor in rows] == rows
    assert set(flow) - set(rows) == {"latent", "z", "coefficients", "timestep", "guidance"}
    conditioned = shapes(models[f"{name}.condition"].output)
    assert set(conditioned) == {"noise", "plan", *(["labels"] if masks else [])}
    assert shapes(models[f"{name}.sampler"].input) == conditioned


@pytest.mark.parametrize("name", variant.names())
def test_an_ensemble_joins_tensors_of_one_shape_and_type(name: str) -> None:
    models = repository.configs(variant.load(name), {}, "onnx", "fp16")
    known = shapes(models[name].input)
    for step in models[name].ensemble_scheduling.step:
        model = models[step.model_name]
        taken, given = shapes(model.input), shapes(model.output)
        for tensor, joined in step.input_map.items():
            assert known[joined] == taken[tensor], (step.model_name, tensor)
        assert set(step.input_map) == set(taken)
        known |= {joined: given[tensor] for tensor, joined in step.output_map.items()}
    assert all(known[tensor] == kind for tensor, kind in shapes(models[name].output).items())


def test_the_embedding_alone_is_half_in_fp16() -> None:
    chosen = variant.load("rflow-ct")
    models = [repository.configs(chosen, {}, "onnx", p) for p in ("fp32", "fp16")]
    changed = set()
    for name, single in models[0].items():
        half = models[1][name]
        tensors = (*single.input, *single.output), (*half.input, *half.output)
        for one, other in zip(*tensors, strict=True):
            if one != other:
                changed.add((name, one.name, pb.DataType.Name(other.data_type)))
    both = ("mask_encoder", "flow_masked")
    assert changed == {(f"rflow-ct.{model}", "embedding", "TYPE_FP16") for model in both}


def test_what_computes_in_numpy_is_one_instance_on_the_cpu_and_networks_are_placed_later() -> None:
    for model in repository.configs(variant.load("rflow-ct"), {}, "tensorrt", "fp16").values():
        group = pb.ModelInstanceGroup(count=1)
        if model.backend == "maisi":
            group.kind = pb.ModelInstanceGroup.KIND_CPU
        assert list(model.instance_group) == ([] if model.platform else [group]), model.name


@pytest.mark.parametrize("name", variant.names())
def test_every_network_says_what_it_takes_and_every_model_but_the_stream_has_a_queue(
    name: str,
) -> None:
    chosen = variant.load(name)
    waiting, size = chosen.serving["limits"]["waiting"][1], chosen.serving["size"]
    for model, config in repository.configs(chosen, {}, "tensorrt", "fp16").items():
        short = model.removeprefix(f"{name}.")
        queue = config.dynamic_batching.default_queue_policy.max_queue_size
        assert queue == (0 if short in (name, "stream") else waiting)
        if config.backend in ("maisi", ""):
            assert "network" not in config.parameters
            continue
        contract = json.loads(config.parameters["network"].string_value)
        assert set(contract["factors"]) <= set(shapes(config.input))
        assert contract["factors"] and contract["multiple"] == size["multiple"]
        if short in ("mask_flow", "mask_decoder"):
            assert contract["size"] == chosen.serving["mask_generation"]["size"] == contract["max"]
        else:
            assert contract["max_voxels"] == size["max_voxels"]
            for most, side in zip(contract["max"], size["max"], strict=True):
                assert 0 <= most - side < size["multiple"] and most % size["multiple"] == 0
        if "class_labels" in shapes(config.input):
            assert contract["ranges"]["class_labels"] == [0, 127]
        if "timestep" in shapes(config.input):
            assert contract["ranges"]["timestep"] == [0, 1000]


def test_each_target_has_its_backend_and_file() -> None:
    chosen = variant.load("ddpm-ct")
    wanted = {
        "onnx": ("", "onnxruntime", "model.onnx"),
        "tensorrt": ("", "tensorrt_rtx", "model.plan"),
        "tensorrt-rtx": ("", "tensorrt_rtx", "model.plan"),
    }
    assert set(repository.TARGETS) == set(wanted)
    for target, facts in wanted.items():
        models = repository.configs(chosen, {}, target, "fp16")
        for short in (*ENGINES, *MASKS):
            engine = models[f"ddpm-ct.{short}"]
            found = (engine.platform, engine.backend, engine.default_model_filename)
            assert found == (facts if "flow" in short else ("", "slabs", "chain.json"))
        engine = models["ddpm-ct.flow"]
        assert engine.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value == "no"
        assert models["ddpm-ct.sampler"].backend == "maisi"
        assert models["ddpm-ct"].platform == "ensemble"


@pytest.mark.parametrize(("name", "count"), [("tiny", 5), ("tiny-ddpm", 7), ("tiny-brain", 3)])
def test_configurations_name_the_tensors_of_their_graphs(
    name: str, count: int, tiny_repository: Path, official_repository: Path
) -> None:
    models = (tiny_repository if name == "tiny" else official_repository) / "models"
    files = [*models.glob(f"{name}.*/1/model.onnx"), *models.glob(f"{name}.*/1/chain.json")]
    assert len(files) == count
    for path in files:
        said = config(path.parents[1])
        if path.suffix == ".json":
            chain = json.loads(path.read_text())
            assert ([chain["input"]], [chain["output"]]) == (
                [tensor.name for tensor in said.input],
                [tensor.name for tensor in said.output],
            )
            continue
        graph = onnx.load(path).graph
        for tensors, named in ((graph.input, said.input), (graph.output, said.output)):
            found = {}
            for tensor in tensors:
                kind = onnx.TensorProto.DataType.Name(tensor.type.tensor_type.elem_type)
                kind = {"FLOAT": "FP32"}.get(kind, kind)
                dims = [dim.dim_value or -1 for dim in tensor.type.tensor_type.shape.dim]
                found[tensor.name] = (f"TYPE_{kind}", dims)
            assert found == shapes(named), path


def test_files_are_linked_beside_each_other(tmp_path: Path) -> None:
    given = files(tiny(), tmp_path / "made", "model.onnx", "model.onnx.data")
    target = tmp_path / "models"
    repository.write(target, tiny(), {"autoencoder": "1"}, given, "onnx", "fp32")
    for short, paths in given.items():
        for path in paths:
            assert os.path.samefile(path, target / f"tiny.{short}" / "1" / path.name)
    assert (target / "tiny.sampler" / "1" / ".gitkeep").is_file()
    assert not list(target.glob(".*"))


def test_another_file_system_gets_copies(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm")
    if os.stat(elsewhere).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("one file system here")
    given = files(tiny(), tmp_path / "made", "model.onnx")
    target = elsewhere / f"maisi-test-{os.getpid()}"
    try:
        repository.write(target, tiny(), {}, given, "onnx", "fp32")
        assert (target / "tiny.flow" / "1" / "model.onnx").read_bytes() == b"model.onnx"
    finally:
        shutil.rmtree(target)


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_plans_of_several_gpus_are_chosen_by_their_compute_capability(
    tmp_path: Path, target: str
) -> None:
    given = files(tiny(), tmp_path / "made", "model_sm86.plan", "model_sm120.plan")
    repository.write(tmp_path / "models", tiny(), {}, given, target, "fp16")
    assert config(tmp_path / "models" / "tiny.flow").backend == "tensorrt_rtx"  # which chooses
    version = tmp_path / "models" / "tiny.flow" / "1"
    assert {path.name for path in version.iterdir()} == {"model_sm86.plan", "model_sm120.plan"}


def test_writing_again_replaces_whole_models_and_removes_those_no_longer_there(
    tmp_path: Path,
) -> None:
    target = tmp_path / "models"
    given = files(official("tiny-ddpm"), tmp_path / "made", "model.onnx")
    repository.write(target, official("tiny-ddpm"), {}, given, "onnx", "fp32")
    (target / "tiny-ddpm.flow" / "1" / "stale").touch()
    for kept in ("other", "tiny-ddpm.notes", "tiny-ddpm-2.mask_flow"):
        (target / kept).mkdir()
        (target / kept / "config.pbtxt").write_text(f'name: "{kept}"')
    smaller = official("tiny-ddpm")
    for role in ("mask_autoencoder", "mask_diffusion"):
        del smaller.networks[role]
    new = files(smaller, tmp_path / "newer", "model.onnx")
    new["flow"][0].write_bytes(b"new")
    repository.write(target, smaller, {}, new, "onnx", "fp32")
    assert (target / "tiny-ddpm.flow" / "1" / "model.onnx").read_bytes() == b"new"
    assert not (target / "tiny-ddpm.flow" / "1" / "stale").exists()
    names = {path.name for path in target.iterdir()}
    models = {"tiny-ddpm", *(f"tiny-ddpm.{model}" for model in (*ROOMS, *ENGINES))}
    assert names == {*models, "other", "tiny-ddpm.notes", "tiny-ddpm-2.mask_flow"}


def test_versions_lie_beside_each_other_each_with_its_configuration(tmp_path: Path) -> None:
    target = tmp_path / "models"
    for version, digest in ((1, "old"), (3, "new"), (2, "between")):
        given = files(tiny(), tmp_path / digest, "model.onnx")
        given["flow"][0].write_text(digest)
        repository.write(
            target, tiny(), {"autoencoder": digest}, given, "onnx", "fp32", version=version
        )
    flow = target / "tiny.flow"
    held = {path.parent.name: path.read_text() for path in flow.glob("*/model.onnx")}
    assert held == {"1": "old", "2": "between", "3": "new"}
    for folder in target.iterdir():
        for version, digest in ((1, "old"), (2, "between"), (3, "new")):
            text = (folder / "configs" / f"{version}.pbtxt").read_text()
            pinned = text_format.Parse(text, pb.ModelConfig())
            assert list(pinned.version_policy.specific.versions) == [version]
            if "variant" in pinned.parameters:
                published = json.loads(pinned.parameters["variant"].string_value)
                assert published["weights"] == {"autoencoder": digest}
    newest = json.loads(config(target / "tiny").parameters["variant"].string_value)
    assert newest["weights"] == {"autoencoder": "new"}
    assert not config(target / "tiny").HasField("version_policy")


def test_versions_have_the_same_models(tmp_path: Path) -> None:
    target, whole = tmp_path / "models", official("tiny-ddpm")
    given = files(whole, tmp_path / "made", "model.onnx")
    repository.write(target, whole, {}, given, "onnx", "fp32")
    smaller = official("tiny-ddpm")
    for role in ("mask_autoencoder", "mask_diffusion"):
        del smaller.networks[role]
    new = files(smaller, tmp_path / "newer", "model.onnx")
    with pytest.raises(ValueError, match="version: 2 of tiny-ddpm has other models than"):
        repository.write(target, smaller, {}, new, "onnx", "fp32", version=2)
    assert not list(target.glob("*/2"))


def test_an_engine_without_a_file_leaves_the_repository_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "models"
    given = files(tiny(), tmp_path / "made", "model.onnx")
    repository.write(target, tiny(), {}, given, "onnx", "fp32")
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    del given["vae_decoder"]
    with pytest.raises(ValueError, match=r"tiny\.vae_decoder: no chain\.json was made for it"):
        repository.write(target, tiny(), {"autoencoder": "2"}, given, "onnx", "fp32")
    given["vae_decoder"] = [tmp_path / "gone" / "model.onnx"]
    with pytest.raises(FileNotFoundError):
        repository.write(target, tiny(), {"autoencoder": "2"}, given, "onnx", "fp32")
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before


def test_the_shipped_repository_is_what_the_variant_says() -> None:
    shipped = ROOT / "model_repository"
    checkpoints = json.loads((shipped / "mini" / "1" / "manifest.json").read_text())["checkpoints"]
    digests = {role: checkpoint["sha256"] for role, checkpoint in checkpoints.items()}
    for name, expected in repository.configs(variant.load("mini"), digests, "onnx", "fp32").items():
        assert config(shipped / name) == expected, f"{name}: build mini again"
