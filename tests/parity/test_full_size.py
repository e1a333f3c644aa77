"""The official networks at full size, random weights, through the embedded server."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from export import build, random_weights, variant
from export.build import Job
from tests.conftest import Server
from tests.parity.conftest import Caller


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["rflow-ct", "rflow-mr-brain"])
def test_a_volume_of_128_cubed_is_answered(
    name: str, tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    chosen = variant.load(name)
    random_weights.write(chosen, tmp_path / "weights")
    build.build(Job(chosen, tmp_path / "weights", tmp_path / "models", tmp_path / "cache"))
    given = {"size": np.array([128, 128, 128], np.int32)}
    if "controlnet" in chosen.networks:
        mask = np.zeros((128, 128, 128), np.uint8)
        mask[32:96, 32:96, 32:96] = 1
        given = {"mask": mask}
    server = start_server(tmp_path / "models")
    caller = Caller(triton.InferenceServerClient(server.grpc), name)
    image, report = caller.volume(**given, steps=np.array([2], np.int32))
    assert image.shape == (128, 128, 128)
    assert np.unique(image).size > 10
    assert report["size"] == [128, 128, 128] and report["variant"] == name
