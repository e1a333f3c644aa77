"""Differences between variants at the endpoints: masks, body regions, DDPM's noise."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from export.arrays import Array
from tests.conftest import Server
from tests.export.repository_of_tiny import OFFICIAL
from tests.parity.conftest import Caller, stream

SIZE = np.array([32, 32, 64], np.int32)


def text(value: str) -> Array:
    return np.array([value.encode()], object)


def test_every_variant_made_its_volume_before_the_server_was_called_ready(
    official_server: Server,
) -> None:
    assert official_server.variants == sorted(OFFICIAL)


@pytest.mark.parametrize(("variant", "masked"), [("tiny-ddpm", True), ("tiny-brain", False)])
def test_both_endpoints_give_the_same_bytes(
    official_callers: dict[str, Caller],
    official_server: Server,
    mask: Callable[..., Array],
    variant: str,
    masked: bool,
) -> None:
    inputs: dict[str, Any] = {
        "seed": np.array([4]),
        "guidance": np.array([2], np.float32),
        **({"mask": mask(33, 32, 40, ids=(0, 1, 22, 200))} if masked else {"size": SIZE}),
    }
    image, report = official_callers[variant].volume(**inputs)
    second, _ = official_callers[variant].volume(**inputs)
    other, _ = official_callers[variant].volume(**inputs | {"seed": np.array([5])})
    assert image.tobytes() == second.tobytes()
    assert (image != other).mean() > 0.1
    messages = stream(official_server, variant, **inputs)
    assert messages[-1].as_numpy("image").tobytes() == image.tobytes()
    last = json.loads(messages[-1].as_numpy("report").tobytes())
    timing = {"seconds": 0, "request_id": ""}
    assert {**last, **timing} == {**report, **timing}
    stages = [message.as_numpy("stage").tobytes().decode() for message in messages]
    encoder = ["mask_encoder"] if masked else []
    assert list(dict.fromkeys(stages)) == ["condition", *encoder, "sampler", "decoder", "done"]
    if masked:
        assert (last["top_region"], last["bottom_region"]) == ("head", "abdomen")
        assert (image[inputs["mask"] == 0] == -1000).all()


def test_regions_steer_the_volume(official_callers: dict[str, Caller]) -> None:
    def image(**regions: Array) -> Array:
        caller = official_callers["tiny-ddpm"]
        return caller.volume(size=SIZE, seed=np.array([1]), **regions)[0]

    default = image()
    assert (image(top_region=text("chest"), bottom_region=text("abdomen")) == default).all()
    assert (image(top_region=text("head")) != default).mean() > 0.1
    assert (image(bottom_region=text("lower")) != default).mean() > 0.1


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "upside down": (
        "tiny-ddpm",
        {"top_region": text("lower"), "bottom_region": text("head")},
        "top_region: 'lower' is below bottom_region, which is 'head'",
    ),
    "no region": (
        "tiny-ddpm",
        {"top_region": text("foot")},
        "top_region: 'foot' is not one of head, chest, abdomen, lower",
    ),
    "solver of another schedule": (
        "tiny-ddpm",
        {"solver": text("euler")},
        "solver: 'euler' is not one of ddpm",
    ),
    "mask": ("tiny-brain", {"mask": np.ones((32, 32, 32), np.uint8)}, "'mask'"),
    "region": ("tiny-brain", {"top_region": text("head")}, "'top_region'"),
}


@pytest.mark.parametrize(("variant", "inputs", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_a_variant_does_not_know_is_refused_at_both_endpoints(
    official_callers: dict[str, Caller],
    official_server: Server,
    variant: str,
    inputs: dict[str, Any],
    sentence: str,
) -> None:
    refused = official_callers[variant].refusal(**inputs)
    streamed = stream(official_server, variant, **inputs)[-1]
    assert isinstance(streamed, triton.InferenceServerException)
    for message in (refused, str(streamed.message())):
        assert re.search(sentence, message), message
        assert "Traceback" not in message


def test_image_and_mask_networks_compute_for_the_stages(
    official_callers: dict[str, Caller],
) -> None:
    ct, brain = official_callers["tiny-ddpm"], official_callers["tiny-brain"]
    image = np.random.default_rng(0).random((1, 1, 32, 32, 64), np.float32)
    for caller in (ct, brain):
        latent = caller.network("vae_encoder", image=image)["latent"]
        assert latent.shape == (1, 4, 8, 8, 16)
        assert np.isfinite(latent).all() and latent.std() > 0
    noise = np.random.default_rng(1).standard_normal((1, 4, 16, 16, 8), np.float32)
    result = ct.network(
        "mask_flow",
        latent=noise,
        z=noise,
        coefficients=np.array([0.5, -2, 0.25], np.float32),
        timestep=np.array([700], np.float32),
        anatomy_sizes=np.full((1, 10), -1, np.float32),
    )
    np.testing.assert_allclose(
        result["next_latent"], 0.75 * noise - 2 * result["velocity"], rtol=1e-4, atol=1e-5
    )
    labels = ct.network("mask_decoder", latent=noise)["labels"]
    assert labels.shape == (1, 64, 64, 32)
    assert labels.dtype == np.uint8
    assert len(np.unique(labels)) > 1
