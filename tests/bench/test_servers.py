"""Endpoints that perf_analyzer can put into shared memory, and requests for them."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from bench import ROOT, servers
from bench.launcher import ServerFailed

REPOSITORY = ROOT / "model_repository"


def test_narrow_endpoints_take_what_is_sent_and_nothing_else(tmp_path: Path) -> None:
    request = servers.inputs(servers.variant_in(REPOSITORY, "mini"), (32, 32, 32), 1)
    assert request.keys() == {"mask", "seed", "steps"}
    servers.add_narrow_endpoints(REPOSITORY, "mini", request, tmp_path)
    for name in ("mini.loadtest", "mini.loadtest_stream"):
        config = servers._config(tmp_path, name)
        assert config.name == name
        assert {tensor.name for tensor in config.input} == request.keys()
    ensemble = servers._config(tmp_path, "mini.loadtest")
    assert "variant" not in ensemble.parameters
    (original,) = (servers._config(REPOSITORY, "mini").ensemble_scheduling,)
    steps = ensemble.ensemble_scheduling.step
    assert [step.model_name for step in steps] == [step.model_name for step in original.step]
    assert set(steps[0].input_map) == request.keys()
    assert [dict(step.input_map) for step in steps[1:]] == [
        dict(step.input_map) for step in original.step[1:]
    ]
    assert (tmp_path / "mini.flow_masked" / "1" / "model.onnx").is_file()


def test_the_mask_is_the_whole_head_at_the_size() -> None:
    facts = servers.variant_in(REPOSITORY, "mini")
    content = servers.inputs(facts, (32, 48, 64), 4)["mask"]
    assert content["shape"] == [32, 48, 64]
    labels = np.frombuffer(base64.b64decode(content["content"]["b64"]), np.uint8)
    assert set(labels.tolist()) == set(np.unique(servers.example_labels((32, 48, 64))).tolist())
    assert 0.2 < np.count_nonzero(labels) / labels.size < 0.9


def test_labels_that_a_variant_does_not_know_are_left_out() -> None:
    facts = {"name": "v", "masks": True, "labels": {"0": "background", "22": "brain"}}
    content = servers.inputs(facts, (32, 32, 32), 4)["mask"]["content"]["b64"]
    assert set(base64.b64decode(content)) == {0, 22}
    with pytest.raises(ServerFailed, match=r"v has none of the labels in brain_mask.nii.gz"):
        servers.inputs({**facts, "labels": {"1": "liver"}}, (32, 32, 32), 4)


def test_a_variant_without_masks_is_sent_a_size() -> None:
    request = servers.inputs({"masks": False}, (32, 48, 64), 4)
    assert request.keys() == {"seed", "steps", "size"}
    assert request["size"]["content"] == [32, 48, 64]


def test_unknown_variants_and_absent_servers_are_named() -> None:
    with pytest.raises(ServerFailed, match="has no model 'maxi'"):
        servers.variant_in(REPOSITORY, "maxi")
    with pytest.raises(ServerFailed, match=r"'mini.stream' of .* is not a variant's ensemble"):
        servers.variant_in(REPOSITORY, "mini.stream")
    with pytest.raises(ServerFailed, match=r"The server at 127.0.0.1:1 did not answer"):
        servers.statistics("127.0.0.1:1")
