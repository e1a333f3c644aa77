"""Conditioning, sampling, decoding and reporting, without a server."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms.utils_morphological_ops import dilate

from backends.maisi import conditioning, decoder, sampler
from backends.maisi.report import report
from backends.maisi.request import complete

Variant = dict[str, Any]


def ask(mini: Variant, **inputs: Any) -> Any:
    return complete(mini, {name: np.asarray(value) for name, value in inputs.items()})


def test_labels_are_padded_at_the_high_end(mini: Variant) -> None:
    mask = np.full((33, 32, 47), 22, np.uint8)
    rows = conditioning.label_rows(mini, ask(mini, mask=mask), mask)
    assert rows.shape == (1, 48, 32, 48)
    assert (rows[0, :33, :, :47] == 22).all()
    assert rows.sum() == mask.sum()


def test_the_unconditional_row_has_no_lesions(mini: Variant) -> None:
    mask = np.full((32, 32, 32), 228, np.uint8)
    mask[0], mask[1] = 176, 150
    rows = conditioning.label_rows(
        mini, ask(mini, mask=mask, guidance=np.array([2], np.float32)), mask
    )
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
    assert conditioning.class_labels(mini, plan).tolist() == [9, 0]
    assert conditioning.spacing_mm100(mini, plan).shape == (2, 3)
    np.testing.assert_allclose(conditioning.spacing_mm100(mini, plan)[1], [150, 200, 90], rtol=1e-6)
    assert conditioning.class_labels(mini, ask(mini)).tolist() == [9]


def test_each_variant_has_its_own_conditions(
    mini: Variant, regional: Variant, unmasked: Variant
) -> None:
    def rows(variant: Variant, **inputs: Any) -> dict[str, Any]:
        plan = ask(variant, guidance=np.array([2], np.float32), **inputs)
        return conditioning.condition_rows(variant, plan)

    assert set(rows(mini)) == {"class_labels", "spacing_mm100"}
    assert set(rows(unmasked)) == {"class_labels", "spacing_mm100"}
    mask = np.full((32, 32, 32), 93, np.uint8)
    mask[0] = 28
    conditions = rows(regional, mask=mask)
    assert set(conditions) == {"spacing_mm100", "top_region_index", "bottom_region_index"}
    assert conditions["top_region_index"].tolist() == [[0, 100, 0, 0]] * 2
    assert conditions["bottom_region_index"].tolist() == [[0, 0, 0, 100]] * 2
    assert conditions["bottom_region_index"].dtype == np.float32


def upstream_vote(mask: Any, lesion: int, organs: list[int]) -> int:
    """Return a lesion's organ by NV-Generate-CTMR: the mode of the ring that a dilation adds."""
    ids = torch.from_numpy(mask.astype(np.int64))
    lesion_mask = ids == lesion
    dilated = dilate(lesion_mask[None, None].float(), 3, pad_value=1.0)[0, 0]
    ring = dilated.bool() & ~lesion_mask & torch.isin(ids, torch.tensor(organs))
    if ring.any():
        return int(ids[ring].mode()[0])
    return organs[int(torch.tensor([(ids == organ).sum() for organ in organs]).argmax())]


@pytest.mark.parametrize("seed", range(6))
def test_a_lesion_becomes_what_is_most_frequent_around_it(regional: Variant, seed: int) -> None:
    random = np.random.default_rng(seed)
    blocks = random.choice(np.array([0, 1, 200, 28, 30], np.uint8), (8, 8, 8))
    mask = np.kron(blocks, np.ones((4, 4, 4), np.uint8))
    mask[random.random(mask.shape) < (0.5, 0.002)[seed % 2]] = 23
    if seed > 3:  # none beside lesions or faces: the whole volume counts
        mask[np.isin(mask, [28, 30])] = 1
        mask[mask == 23] = 1
        mask[5, 5, 5], mask[15, 15, 15:25], mask[20, 20, 10:15] = 23, 28, 30
    plan = ask(regional, mask=mask, guidance=np.array([2], np.float32))
    rows = conditioning.label_rows(regional, plan, mask)
    truth = mask.copy()
    truth[mask == 23] = upstream_vote(mask, 23, [28, 30])
    np.testing.assert_array_equal(rows[0], mask)
    np.testing.assert_array_equal(rows[1], truth)


def test_fresh_noise_follows_the_seed_and_is_not_the_first_noise(regional: Variant) -> None:
    def noises(seed: int) -> list[Any]:
        plan = ask(regional, size=np.array([32, 48, 32], np.int32), seed=[seed])
        fresh = conditioning.fresh_noise(regional, plan)
        return [conditioning.noise(regional, plan, None), next(fresh), next(fresh)]

    first, second, third = noises(5)
    assert first.shape == second.shape == third.shape == (1, 4, 8, 12, 8)
    assert second.dtype == np.float32
    for one, other in ((first, second), (second, third), (first, third)):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.05
    assert all((one == other).all() for one, other in zip(noises(5), noises(5), strict=True))
    assert (noises(6)[1] != second).all()


def test_ddpm_gets_fresh_noise_at_every_step_but_the_last(regional: Variant) -> None:
    plan = ask(regional, size=np.array([32, 32, 32], np.int32), steps=[4], seed=[1])
    network_inputs: list[Any] = []

    def engine(model: str, inputs: Any, outputs: Any) -> list[Any]:
        network_inputs.append(inputs)
        return ["latent", "velocity"]

    sampler.sample(regional, plan, "noise", {"spacing_mm100": 1}, engine)
    fresh = conditioning.fresh_noise(regional, plan)
    assert all((inputs["z"] == next(fresh)).all() for inputs in network_inputs[:3])
    assert network_inputs[3]["z"] == "velocity"
    assert [inputs["coefficients"][2] > 0 for inputs in network_inputs] == [True, True, True, False]
    assert [inputs["timestep"].item() for inputs in network_inputs] == [999, 666, 333, 0]


def test_the_loop_passes_latent_and_velocity_to_the_next_step(mini: Variant) -> None:
    plan = ask(
        mini, size=np.array([32, 32, 32], np.int32), steps=[6], solver=np.array(["ab2"], object)
    )
    network_calls: list[tuple[str, Any]] = []

    def engine(model: str, inputs: Any, outputs: Any) -> list[Any]:
        network_calls.append((model, inputs))
        assert list(outputs) == ["next_latent", "velocity"][: 1 if len(network_calls) == 6 else 2]
        return [f"{name.removeprefix('next_')} {len(network_calls)}" for name in outputs]

    progress: list[tuple[int, int]] = []
    latent = sampler.sample(
        mini, plan, "noise", {"class_labels": 1}, engine, lambda *step: progress.append(step)
    )
    assert latent == "latent 6"
    assert progress == [(i, 6) for i in range(1, 7)]
    assert {model for model, _ in network_calls} == {"flow"}
    assert [inputs["latent"] for _, inputs in network_calls] == [
        "noise",
        *(f"latent {i}" for i in range(1, 6)),
    ]
    assert [inputs["z"] for _, inputs in network_calls] == [
        "noise",
        *(f"velocity {i}" for i in range(1, 6)),
    ]
    assert network_calls[0][1]["coefficients"][2] == 0
    assert network_calls[1][1]["coefficients"][2] < 0


@pytest.mark.parametrize("solver", ["euler", "heun", "ab2"])
@pytest.mark.parametrize(
    ("interval", "guided"),
    [((0, 1), [2] * 5), ((0, 0), [1] * 5), ((0.3, 0.7), [1, 1, 2, 2, 1]), ((1, 1), [2, *[1] * 4])],
)
def test_outside_of_the_guidance_interval_one_row_is_computed(
    mini: Variant, solver: str, interval: tuple[float, float], guided: list[int]
) -> None:
    plan = ask(
        mini,
        size=np.array([128, 128, 128], np.int32),  # of this size times are even: 1, 0.8, ..., 0.2
        steps=[5],
        solver=np.array([solver], object),
        guidance=np.array([2], np.float32),
        guidance_interval=np.array(interval, np.float32),
    )
    rows_by_time: dict[float, int] = {}

    def engine(model: str, inputs: Any, outputs: Any) -> list[Any]:
        rows = inputs["class_labels"]
        assert rows.tolist() == [9, 0][: len(rows)]
        assert len(inputs["spacing_mm100"]) == len(rows)
        assert inputs["guidance"] == 2
        assert rows_by_time.setdefault(round(inputs["timestep"].item(), 0), len(rows)) == len(rows)
        return ["latent", "velocity"]

    rows = conditioning.condition_rows(mini, plan)
    sampler.sample(mini, plan, "noise", rows, engine)
    assert list(rows_by_time.values()) == guided


def test_a_mask_takes_the_masked_flow_and_its_background(mini: Variant) -> None:
    mask = np.full((32, 32, 32), 22, np.uint8)
    mask[:, :, 20:] = 0
    plan = ask(mini, mask=mask)

    def engine(model: str, inputs: Any, outputs: Any) -> list[Any]:
        assert model == "vae_decoder"
        return [np.full((1, 1, 32, 32, 32), 432, np.int16)]

    image = decoder.decode(mini, plan, np.zeros(1), mask, engine)
    assert image.dtype == np.int16
    assert (image[mask > 0] == 432).all()
    assert (image[mask == 0] == 0).all()


def test_only_the_decoder_returns_grey_levels() -> None:
    ct: Variant = {"intensity": {"min": -1000, "max": 1000, "clip_above": True}}
    half = np.full((1, 1, 2, 2, 2), 0.5, np.float32)
    run = decoder.in_grey_levels(ct, lambda model, inputs, outputs: [half])
    (image,) = run("vae_decoder", {}, ["image"])
    assert image.dtype == np.int16 and image.shape == half.shape and (image == 0).all()
    assert run("vae_encoder", {}, ["latent"])[0] is half


def test_the_report_names_regions_where_there_are_any(mini: Variant, regional: Variant) -> None:
    image = np.zeros((2, 2, 2), np.int16)
    fields = json.loads(report(regional, ask(regional), {}, image, None, []))
    assert (fields["top_region"], fields["bottom_region"]) == ("chest", "abdomen")
    assert "top_region" not in json.loads(report(mini, ask(mini), {}, image, None, []))


def test_the_report_has_the_plan_and_the_quality(mini: Variant) -> None:
    mask = np.full((32, 32, 32), 22, np.uint8)
    mask[0] = 0
    image = np.where(mask == 22, 500, 0).astype(np.int16)
    plan = ask(mini, mask=mask, seed=[3])
    fields = json.loads(report(mini, plan, {"total": 1.23456}, image, mask, []))
    assert fields["synthetic"] is True
    assert fields["seed"] == 3
    assert fields["weights"] == mini["weights"]
    assert fields["seconds"] == {"total": 1.2346}
    assert fields["quality"]["label_means"] == {"22": 500.0}
    assert fields["quality"]["range"] == [0, 500]
