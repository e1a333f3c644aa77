"""The official networks at full size, random weights, through the embedded server."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from export import build, random_weights
from export import variant as variants
from export.arrays import Array
from export.job import Job
from export.variant import Variant
from tests.conftest import Server
from tests.parity import masks
from tests.parity.compare import compare
from tests.parity.conftest import Caller

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SIDE = 128


def serve(variant: Variant, folder: Path, start: Callable[..., Server]) -> Caller:
    """Serve `variant` with random weights, which are written to `folder`."""
    random_weights.write(variant, folder)
    build.build(Job(variant, folder, folder / "models", folder / "cache"))
    server = start(folder / "models")
    return Caller(triton.InferenceServerClient(server.grpc), variant.name)


def test_a_volume_of_128_cubed_is_answered(
    tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    caller = serve(variants.load("rflow-mr-brain"), tmp_path, start_server)
    size = np.array([SIDE, SIDE, SIDE], np.int32)
    image, report = caller.volume(size=size, steps=np.array([2], np.int32))
    assert image.shape == (SIDE, SIDE, SIDE)
    assert np.unique(image).size > 10
    assert report["size"] == [SIDE, SIDE, SIDE] and report["variant"] == "rflow-mr-brain"


@pytest.fixture(scope="module")
def variant() -> Variant:
    """Return rflow-ct whose masks take 3 steps of 1000, and half their size along each axis."""
    ct = variants.load("rflow-ct")
    masks = {**ct.serving["mask_generation"], "size": [SIDE, SIDE, SIDE], "steps": 3}
    return dataclasses.replace(ct, serving={**ct.serving, "mask_generation": masks})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ct")


@pytest.fixture(scope="module")
def ct(variant: Variant, folder: Path, module_server: Callable[..., Server]) -> Caller:
    return serve(variant, folder, module_server)


@pytest.mark.parametrize("strength", [None, 0.5], ids=["from a mask", "image to image"])
def test_volumes_are_what_monai_makes(
    strength: float | None, variant: Variant, folder: Path, ct: Caller, mask: Callable[..., Array]
) -> None:
    def make(*shape: int) -> Array:
        return mask(*shape, ids=(0, 1, 5, 28, 30, 93, 200))

    case = ((SIDE, SIDE, SIDE), 0.0, True)
    compare(variant, folder, ct, case, make, "ct", strength=strength)


def test_a_pair_of_an_anatomy_is_what_monai_and_upstream_make(
    variant: Variant, folder: Path, ct: Caller
) -> None:
    request: dict[str, Any] = masks.REQUEST | {"size": np.array([SIDE, SIDE, SIDE], np.int32)}
    answer = ct.ask(**request)
    used_mask, report = answer["used_mask"], json.loads(answer["report"].tobytes())
    truth = masks.mask_of_monai(variant, folder, (SIDE, SIDE, SIDE))
    assert (used_mask == truth).mean() > 0.999  # a class may win by a rounding
    assert len(np.unique(used_mask)) > 5
    assert report["anatomy"]["liver"] == pytest.approx(0.8)
    # The image equals that of a request with this mask, which is compared above.
    inputs = {key: value for key, value in request.items() if key not in ("anatomy", "size")}
    image, _ = ct.volume(**inputs, mask=used_mask)
    assert image.tobytes() == answer["image"].tobytes()
