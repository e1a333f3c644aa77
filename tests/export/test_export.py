"""The repository that a build writes for a small variant."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from export import graphs, networks, onnx_export
from export import variant as variants
from export.graphs import NEEDS
from tests.export.repository_of_tiny import official, read_config


def test_every_model_has_its_configuration_and_files(official_repository: Path) -> None:
    folders = (official_repository / "models").glob("tiny-ddpm*")
    models = {path.name: read_config(path) for path in folders}
    pipeline = ["stream", "condition", "sampler", "decoder"]
    names = ["tiny-ddpm", *(f"tiny-ddpm.{short}" for short in (*pipeline, *NEEDS))]
    assert set(models) == set(names)
    for name, model in models.items():
        assert model.name == name
        assert model.max_batch_size == 0
        assert model.input and model.output
        assert not model.HasField("version_policy")
        version = official_repository / "models" / name / "1"
        assert (version / "model.onnx").is_file() == (model.backend == "onnxruntime")
        assert (version / "chain.json").is_file() == (model.backend == "slabs")
        if model.backend not in ("onnxruntime", "slabs"):
            parameter = json.loads(model.parameters["variant"].string_value)
            assert parameter["name"] == "tiny-ddpm"
            assert set(parameter["weights"]) == set(variants.ROLES)
    assert models["tiny-ddpm.stream"].model_transaction_policy.decoupled
    assert all(tensor.optional for tensor in models["tiny-ddpm"].input)


def test_weights_of_a_float16_checkpoint_are_stored_as_such(official_repository: Path) -> None:
    model = onnx.load(official_repository / "models" / "tiny-ddpm.flow" / "1" / "model.onnx")
    sizes = {onnx.TensorProto.FLOAT: 0, onnx.TensorProto.FLOAT16: 0}
    for weight in model.graph.initializer:
        if weight.data_type in sizes:
            sizes[weight.data_type] += int(np.prod(weight.dims))
    assert sizes[onnx.TensorProto.FLOAT] < 0.05 * sizes[onnx.TensorProto.FLOAT16]


def test_a_graph_that_computes_something_else_is_refused(official_repository: Path) -> None:
    loaded = networks.load(official("tiny-ddpm"), official_repository)
    loaded.controlnet.controlnet_cond_embedding.conv_out.conv.bias.data += 0.01
    encoder = graphs.graphs(official("tiny-ddpm"), loaded)[0]
    model = official_repository / "models" / "tiny-ddpm.mask_encoder" / "1" / "chain.json"
    with pytest.raises(ValueError, match="mask_encoder: ONNX Runtime differs from PyTorch by"):
        onnx_export.verify(encoder, model, 1e-5)
