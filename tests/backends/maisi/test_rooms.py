"""Conditioning, sampling, decoding and reporting, without a server."""

import json
from typing import Any

import numpy as np
import pytest

from backends.maisi import conditioning, decoder, sampler
from backends.maisi.report import report
from backends.maisi.request import InvalidRequest, complete

Variant = dict[str, Any]


def ask(mini: Variant, **inputs: Any) -> Any:
    return complete(mini, {name: np.asarray(value) for name, value in inputs.items()})


def test_labels_are_padded_at_the_high_end(mini: Variant) -> None:
    mask = np.full((33, 32, 47), 22, np.uint8)
    rows = conditioning.labels(mini, ask(mini, mask=mask), mask)
    assert rows.shape == (1, 48, 32, 48)
    assert (rows[0, :33, :, :47] == 22).all()
    assert rows.sum() == mask.sum()


def test_the_unconditional_row_has_no_lesions(mini: Variant) -> None:
    mask = np.full((32, 32, 32), 228, np.uint8)
    mask[0], mask[1] = 176, 150
    rows = conditioning.labels(mini, ask(mini, mask=mask, guidance=np.array([2], np.float32)), mask)
    assert rows.shape == (2, 32, 32, 32)
    assert (rows[0] == mask).all()
    assert (rows[1, 0] == mini["lesions"]["176"]).all()
    assert (rows[1, 1] == mini["lesions"]["150"]).all()
    assert (rows[1, 2:] == 228).all()


def test_noise_follows_the_seed(mini: Variant) -> None:
    size = np.array([32, 48, 32], np.int32)
    first = conditioning.noise(mini, ask(mini, size=size, seed=[5]), None)
    assert first.shape == (1, 4, 8, 12, 8)
    assert first.dtype == np.float32
    assert (first == conditioning.noise(mini, ask(mini, size=size, seed=[5]), None)).all()
    assert (first != conditioning.noise(mini, ask(mini, size=size, seed=[6]), None)).any()


def test_rows_of_conditioning(mini: Variant) -> None:
    plan = ask(
        mini, guidance=np.array([1.5], np.float32), spacing=np.array([1.5, 2, 0.9], np.float32)
    )
    assert conditioning.class_labels(plan).tolist() == [9, 0]
    assert conditioning.spacing_mm100(plan).shape == (2, 3)
    np.testing.assert_allclose(conditioning.spacing_mm100(plan)[1], [150, 200, 90], rtol=1e-6)
    assert conditioning.class_labels(ask(mini)).tolist() == [9]


def test_the_loop_hands_latent_and_velocity_on(mini: Variant) -> None:
    plan = ask(
        mini, size=np.array([32, 32, 32], np.int32), steps=[6], solver=np.array(["ab2"], object)
    )
    seen: list[tuple[str, Any]] = []

    def engine(model: str, inputs: Any, outputs: Any) -> list[Any]:
        assert list(outputs) == ["next_latent", "velocity"]
        seen.append((model, inputs))
        return [f"latent {len(seen)}", f"velocity {len(seen)}"]

    heard: list[tuple[int, int]] = []
    latent = sampler.sample(
        mini, plan, "noise", {"class_labels": 1}, engine, lambda *now: heard.append(now)
    )
    assert latent == "latent 6"
    assert heard == [(i, 6) for i in range(1, 7)]
    assert {model for model, _ in seen} == {"flow"}
    assert [given["latent"] for _, given in seen] == [
        "noise",
        *(f"latent {i}" for i in range(1, 6)),
    ]
    assert [given["z"] for _, given in seen] == ["noise", *(f"velocity {i}" for i in range(1, 6))]
    assert seen[0][1]["coefficients"][2] == 0
    assert seen[1][1]["coefficients"][2] < 0


def test_a_mask_takes_the_masked_flow_and_its_background(mini: Variant) -> None:
    mask = np.full((32, 32, 32), 22, np.uint8)
    mask[:, :, 20:] = 0
    plan = ask(mini, mask=mask)

    def engine(model: str, inputs: Any, outputs: Any) -> list[Any]:
        assert model == "vae_decoder"
        return [np.full((1, 1, 32, 32, 32), 0.4321, np.float32)]

    image = decoder.decode(mini, plan, np.zeros(1), mask, engine)
    assert image.dtype == np.int16
    assert (image[mask > 0] == 432).all()
    assert (image[mask == 0] == 0).all()


def test_grey_levels(mini: Variant) -> None:
    decoded = np.array([-0.5, 0, 0.0004, 0.0006, 1, 1.2, 1e6], np.float32)
    assert decoder.intensity(mini, decoded).tolist() == [0, 0, 0, 1, 1000, 1200, 32767]
    ct = {"intensity": {"min": -1000, "max": 1000, "clip_above": True}}
    assert decoder.intensity(ct, decoded).tolist() == [-1000, -1000, -999, -999, 1000, 1000, 1000]
    with pytest.raises(InvalidRequest, match="image: the networks gave NaN"):
        decoder.intensity(mini, np.array([0, np.nan]))


def test_the_report_says_what_was_done(mini: Variant) -> None:
    mask = np.full((32, 32, 32), 22, np.uint8)
    mask[0] = 0
    image = np.where(mask == 22, 500, 0).astype(np.int16)
    plan = ask(mini, mask=mask, seed=[3])
    said = json.loads(report(mini, plan, {"total": 1.23456}, image, mask))
    assert said["synthetic"] is True
    assert said["seed"] == 3
    assert said["weights"] == mini["weights"]
    assert said["seconds"] == {"total": 1.2346}
    assert said["quality"]["label_means"] == {"22": 500.0}
    assert said["quality"]["range"] == [0, 500]
