"""Triton's configurations of a variant's models, for every target and precision."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from tritonclient.grpc import model_config_pb2 as pb

from export import model_configs
from export import variant as variants
from tests.conftest import ROOT
from tests.export.repository_of_tiny import read_config
from tests.export.weights import tiny

ENGINES = ["mask_encoder", "flow", "flow_masked", "vae_decoder", "vae_encoder"]
MASKS = ["mask_flow", "mask_decoder"]
PIPELINE = ["stream", "condition", "sampler", "decoder"]


def shapes(tensors: Any) -> dict[str, tuple[str, list[int]]]:
    return {t.name: (pb.DataType.Name(t.data_type), list(t.dims)) for t in tensors}


@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("mini", [*PIPELINE, *ENGINES, *MASKS]),
        ("rflow-ct", [*PIPELINE, *ENGINES, *MASKS]),
        ("ddpm-ct", [*PIPELINE, *ENGINES, *MASKS]),
        ("rflow-mr", [*PIPELINE, "flow", "vae_decoder", "vae_encoder"]),
        ("rflow-mr-brain", [*PIPELINE, "flow", "vae_decoder", "vae_encoder"]),
    ],
)
def test_a_variant_has_the_models_of_its_networks(name: str, models: list[str]) -> None:
    configs = model_configs.configs(variants.load(name), {}, "onnx", "fp32")
    assert set(configs) == {name, *(f"{name}.{model}" for model in models)}
    for model in configs.values():
        assert model.max_batch_size == 0
        assert model.input and model.output
        # Triton dies of a request for the classes of a STRING.
        assert not any(tensor.data_type == pb.TYPE_STRING for tensor in model.output)
    ensemble, stream = configs[name], configs[f"{name}.stream"]
    condition = configs[f"{name}.condition"]
    assert shapes(ensemble.input) == shapes(condition.input)
    stream_only = set(shapes(stream.input)) - set(shapes(condition.input))
    masks = {"redraws", "mask_only"} if f"{name}.mask_encoder" in configs else set()
    assert stream_only == {"check", *masks}
    assert shapes(stream.input).items() >= shapes(condition.input).items()
    networks = [model for model in configs.values() if "network" in model.parameters]
    assert len(networks) >= 3
    for model in (ensemble, stream, condition, *networks):
        assert all(tensor.optional for tensor in model.input)


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
    models = model_configs.configs(variants.load(name), {}, "onnx", "fp32")
    request = shapes(models[name].input)
    assert ("mask" in request) == masks
    assert ("top_region" in request) == ("bottom_region" in request) == regions
    flow = shapes(models[f"{name}.flow"].input)
    assert [tensor for tensor in flow if tensor in rows] == rows
    assert set(flow) - set(rows) == {"latent", "z", "coefficients", "timestep", "guidance"}
    conditioned = shapes(models[f"{name}.condition"].output)
    assert set(conditioned) == {"noise", "plan", *(["labels"] if masks else [])}
    assert shapes(models[f"{name}.sampler"].input) == conditioned


@pytest.mark.parametrize("name", variants.names())
def test_an_ensemble_joins_tensors_of_one_shape_and_type(name: str) -> None:
    models = model_configs.configs(variants.load(name), {}, "onnx", "fp16")
    tensors = shapes(models[name].input)
    for step in models[name].ensemble_scheduling.step:
        model = models[step.model_name]
        inputs, outputs = shapes(model.input), shapes(model.output)
        for tensor, joined in step.input_map.items():
            assert tensors[joined] == inputs[tensor], (step.model_name, tensor)
        assert set(step.input_map) == set(inputs)
        tensors |= {joined: outputs[tensor] for tensor, joined in step.output_map.items()}
    assert all(tensors[tensor] == kind for tensor, kind in shapes(models[name].output).items())


def test_the_embedding_alone_is_half_in_fp16() -> None:
    variant = variants.load("rflow-ct")
    models = [model_configs.configs(variant, {}, "onnx", p) for p in ("fp32", "fp16")]
    differences = set()
    for name, single in models[0].items():
        half = models[1][name]
        tensors = (*single.input, *single.output), (*half.input, *half.output)
        for one, other in zip(*tensors, strict=True):
            if one != other:
                differences.add((name, one.name, pb.DataType.Name(other.data_type)))
    both = ("mask_encoder", "flow_masked")
    assert differences == {(f"rflow-ct.{model}", "embedding", "TYPE_FP16") for model in both}


def test_what_computes_in_numpy_is_one_instance_on_the_cpu_and_networks_are_placed_later() -> None:
    for model in model_configs.configs(variants.load("rflow-ct"), {}, "tensorrt", "fp16").values():
        group = pb.ModelInstanceGroup(count=1)
        if model.backend == "maisi":
            group.kind = pb.ModelInstanceGroup.KIND_CPU
        assert list(model.instance_group) == ([] if model.platform else [group]), model.name


@pytest.mark.parametrize("name", variants.names())
def test_every_network_says_what_it_takes_and_the_stages_of_the_ensemble_have_queues(
    name: str,
) -> None:
    variant = variants.load(name)
    waiting, size = variant.serving["limits"]["waiting"][1], variant.serving["size"]
    for model, config in model_configs.configs(variant, {}, "tensorrt", "fp16").items():
        short = model.removeprefix(f"{name}.")
        if short in ("condition", "sampler", "decoder"):
            assert config.dynamic_batching.default_queue_policy.max_queue_size == waiting
        else:
            assert not config.HasField("dynamic_batching")
        if config.backend in ("maisi", ""):
            assert "network" not in config.parameters
            continue
        contract = json.loads(config.parameters["network"].string_value)
        assert set(contract["factors"]) <= set(shapes(config.input))
        assert contract["factors"] and contract["multiple"] == size["multiple"]
        if short in ("mask_flow", "mask_decoder"):
            assert contract["size"] == variant.serving["mask_generation"]["size"] == contract["max"]
        else:
            assert contract["max_voxels"] == size["max_voxels"]
            for most, side in zip(contract["max"], size["max"], strict=True):
                assert 0 <= most - side < size["multiple"] and most % size["multiple"] == 0
        if "class_labels" in shapes(config.input):
            assert contract["ranges"]["class_labels"] == [0, 127]
        if "timestep" in shapes(config.input):
            assert contract["ranges"]["timestep"] == [0, 1000]


def test_the_mask_network_has_the_times_of_its_own_schedule_and_an_input_for_each_size() -> None:
    variant = tiny()
    generation = variant.serving["mask_generation"]
    schedule = generation["schedule"] | {"train_timesteps": 500}
    serving = variant.serving | {"mask_generation": generation | {"schedule": schedule}}
    variant = dataclasses.replace(variant, serving=serving)
    models = model_configs.configs(variant, {}, "onnx", "fp32")
    for short, latest in (("mask_flow", 500), ("flow", 1000)):
        contract = json.loads(models[f"tiny.{short}"].parameters["network"].string_value)
        assert contract["ranges"]["timestep"] == [0, latest]
    assert shapes(models["tiny.mask_flow"].input)["anatomy_sizes"] == ("TYPE_FP32", [1, 4])


def test_each_target_has_its_backend_and_file() -> None:
    variant = variants.load("ddpm-ct")
    targets = {
        "onnx": ("", "onnxruntime", "model.onnx"),
        "tensorrt": ("", "tensorrt_rtx", "model.plan"),
        "tensorrt-rtx": ("", "tensorrt_rtx", "model.plan"),
    }
    assert set(model_configs.TARGETS) == set(targets)
    for target, expected in targets.items():
        models = model_configs.configs(variant, {}, target, "fp16")
        for short in (*ENGINES, *MASKS):
            engine = models[f"ddpm-ct.{short}"]
            actual = (engine.platform, engine.backend, engine.default_model_filename)
            assert actual == (expected if "flow" in short else ("", "slabs", "chain.json"))
        engine = models["ddpm-ct.flow"]
        assert engine.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value == "no"
        assert models["ddpm-ct.sampler"].backend == "maisi"
        assert models["ddpm-ct"].platform == "ensemble"


@pytest.mark.parametrize(("name", "count"), [("tiny-ddpm", 7), ("tiny-brain", 3)])
def test_configurations_name_the_tensors_of_their_graphs(
    name: str, count: int, official_repository: Path
) -> None:
    models = official_repository / "models"
    files = [*models.glob(f"{name}.*/1/model.onnx"), *models.glob(f"{name}.*/1/chain.json")]
    assert len(files) == count
    for path in files:
        config = read_config(path.parents[1])
        if path.suffix == ".json":
            chain = json.loads(path.read_text())
            assert ([chain["input"]], [chain["output"]]) == (
                [tensor.name for tensor in config.input],
                [tensor.name for tensor in config.output],
            )
            continue
        graph = onnx.load(path).graph
        for tensors, expected in ((graph.input, config.input), (graph.output, config.output)):
            actual = {}
            for tensor in tensors:
                kind = onnx.TensorProto.DataType.Name(tensor.type.tensor_type.elem_type)
                kind = {"FLOAT": "FP32"}.get(kind, kind)
                dims = [dim.dim_value or -1 for dim in tensor.type.tensor_type.shape.dim]
                actual[tensor.name] = (f"TYPE_{kind}", dims)
            assert actual == shapes(expected), path


def test_the_shipped_repository_is_what_the_variant_says() -> None:
    shipped = ROOT / "model_repository"
    checkpoints = json.loads((shipped / "mini" / "1" / "manifest.json").read_text())["checkpoints"]
    digests = {role: checkpoint["sha256"] for role, checkpoint in checkpoints.items()}
    for name, expected in model_configs.configs(
        variants.load("mini"), digests, "onnx", "fp32"
    ).items():
        assert read_config(shipped / name) == expected, f"{name}: build mini again"
