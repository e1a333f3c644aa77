"""The whole way from a checkpoint to a repository, for a small variant."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from export import graphs, networks, onnx_export
from tests.export.repository_of_tiny import read_config
from tests.export.weights import tiny


def test_every_model_is_there_and_says_what_it_is(tiny_repository: Path) -> None:
    models = {path.name: read_config(path) for path in (tiny_repository / "models").iterdir()}
    pipeline = ["stream", "condition", "sampler", "decoder"]
    engines = ["mask_encoder", "flow", "flow_masked", "vae_decoder", "vae_encoder"]
    assert set(models) == {"tiny", *(f"tiny.{short}" for short in (*pipeline, *engines))}
    for name, model in models.items():
        assert model.name == name
        assert model.max_batch_size == 0
        assert model.input and model.output
        assert not model.HasField("version_policy")
        version = tiny_repository / "models" / name / "1"
        assert (version / "model.onnx").is_file() == (model.backend == "onnxruntime")
        assert (version / "chain.json").is_file() == (model.backend == "slabs")
        if model.backend not in ("onnxruntime", "slabs"):
            parameter = json.loads(model.parameters["variant"].string_value)
            assert parameter["name"] == "tiny"
            assert set(parameter["weights"]) == {"autoencoder", "diffusion_unet", "controlnet"}
    assert models["tiny.stream"].model_transaction_policy.decoupled
    assert all(tensor.optional for tensor in models["tiny"].input)


def test_float16_weights_are_stored_as_such(tiny_repository: Path) -> None:
    model = onnx.load(tiny_repository / "models" / "tiny.flow" / "1" / "model.onnx")
    sizes = {onnx.TensorProto.FLOAT: 0, onnx.TensorProto.FLOAT16: 0}
    for weight in model.graph.initializer:
        if weight.data_type in sizes:
            sizes[weight.data_type] += int(np.prod(weight.dims))
    assert sizes[onnx.TensorProto.FLOAT] < 0.05 * sizes[onnx.TensorProto.FLOAT16]


def test_a_graph_that_computes_something_else_is_refused(tiny_repository: Path) -> None:
    loaded = networks.load(tiny(), tiny_repository)
    loaded.controlnet.controlnet_cond_embedding.conv_out.conv.bias.data += 0.01
    encoder = graphs.graphs(tiny(), loaded)[0]
    model = tiny_repository / "models" / "tiny.mask_encoder" / "1" / "chain.json"
    with pytest.raises(ValueError, match="mask_encoder: ONNX Runtime differs from PyTorch by"):
        onnx_export.verify(encoder, model, 1e-5)
