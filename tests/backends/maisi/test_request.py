"""Requests are completed to plans, and invalid ones get one sentence."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from backends.maisi.errors import InvalidRequest
from backends.maisi.request import complete, parse_plan, signed

Variant = dict[str, Any]


def text(value: str | bytes) -> np.ndarray[Any, Any]:
    return np.array([value.encode() if isinstance(value, str) else value], dtype=object)


def text_bytes(value: str | bytes) -> np.ndarray[Any, Any]:
    return np.frombuffer(value.encode() if isinstance(value, str) else value, np.uint8)


def mask(*shape: int, label: int = 22) -> np.ndarray[Any, Any]:
    return np.full(shape, label, np.uint8)


def test_an_empty_request_gives_the_defaults(mini: Variant) -> None:
    plan = complete(mini, {})
    assert list(plan.size) == mini["defaults"]["size"]
    assert plan.modality == mini["defaults"]["modality"]
    assert plan.steps == mini["defaults"]["steps"]
    assert not plan.masked
    assert plan.rows == 1
    assert plan.guidance_interval == (0, 1)
    assert 0 <= plan.seed < 2**31
    assert complete(mini, {}).seed != plan.seed


def test_a_mask_gives_size_and_padding(mini: Variant) -> None:
    plan = complete(mini, {"mask": mask(33, 48, 50)})
    assert plan.masked
    assert plan.size == (33, 48, 50)
    assert plan.padded_size == (48, 48, 64)
    assert plan.latent_shape(mini) == (1, 4, 12, 12, 16)


@pytest.mark.parametrize("modality", ["mri_flair", "11", b"mri_flair"])
def test_modality_by_name_or_code(mini: Variant, modality: str | bytes) -> None:
    plan = complete(mini, {"modality": text(modality)})
    assert (plan.modality, plan.class_label) == ("mri_flair", 11)


def test_numbers_are_the_decimals_of_the_request(mini: Variant) -> None:
    inputs = {"spacing": np.array([0.9, 1.1, 2], np.float32), "guidance": np.array([0.1], "f4")}
    plan = complete(mini, inputs)
    assert plan.spacing == (0.9, 1.1, 2.0)
    assert plan.guidance == 0.1
    assert plan.rows == 2


def test_guidance_within_an_interval(mini: Variant) -> None:
    inputs = {"guidance": f4(2), "guidance_interval": f4(0.1, 0.7)}
    plan = complete(mini, inputs)
    assert plan.guidance_interval == (0.1, 0.7)
    assert [plan.guides(time) for time in (0.0, 0.1, 0.5, 0.7, 1.0)] == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_largest_seed(mini: Variant) -> None:
    assert complete(mini, {"seed": np.array([2**63 - 1])}).seed == 2**63 - 1


def i4(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int32)


def f4(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


BAD = {
    "both": ({"mask": mask(32, 32, 32), "size": i4(32, 32, 32)}, "size: cannot be combined"),
    "2-D": ({"mask": mask(32, 32)}, "mask: 2 axes"),
    "4-D": ({"mask": mask(1, 32, 32, 32)}, "mask: 4 axes"),
    "no voxels": ({"mask": mask(0, 32, 32)}, "mask: 0 x 32 x 32 voxels is outside"),
    "small": ({"size": i4(31, 32, 32)}, "size: 31 x 32 x 32 voxels is outside .* 32 x 32 x 32 to"),
    "large": ({"size": i4(32, 32, 257)}, "32 x 32 x 257 voxels is outside"),
    "many": ({"size": i4(256, 256, 256)}, "is 16777216 voxels, and at most 8388608 are"),
    "negative": ({"size": i4(-(2**31), 32, 32)}, "size: -2147483648 x 32 x 32"),
    "size rank": ({"size": i4(32, 32)}, r"size: shape \[2\], but \[3\] is allowed"),
    "empty": ({"mask": mask(32, 32, 32, label=0)}, "mask: every voxel is 0"),
    "label": ({"mask": mask(32, 32, 32, label=7)}, "mask: holds 7, and the labels of mini are 0,"),
    "spacing NaN": ({"spacing": f4(2, float("nan"), 2)}, "spacing: 2 x nan x 2 mm is outside"),
    "spacing < 0": ({"spacing": f4(-1, 2, 2)}, "spacing: -1 x 2 x 2 mm is outside .* to 5"),
    "spacing inf": ({"spacing": f4(2, 2, float("inf"))}, "spacing: 2 x 2 x inf mm"),
    "modality": ({"modality": text("ct")}, r"modality: 'ct' is not one of mri_t1 \(9\)"),
    "not UTF-8": ({"modality": text(b"\xff\xfe")}, "modality: .* is not text in UTF-8"),
    "long text": ({"modality": text("x" * 10**6)}, "modality: 1000000 characters, and at most 100"),
    "no text": ({"modality": np.array([], object)}, r"modality: shape \[0\]"),
    "solver": ({"solver": text("rk4\n")}, r"solver: 'rk4\\n' is not one of euler, heun, ab2"),
    "steps 0": ({"steps": i4(0)}, "steps: 0 is outside the allowed range, 1 to 1000"),
    "steps 10^6": ({"steps": i4(10**6)}, "steps: 1000000 is outside"),
    "guidance < 0": (
        {"guidance": f4(-0.5)},
        "guidance: -0.5 is outside the allowed range, 0 to 20",
    ),
    "guidance NaN": ({"guidance": f4(float("nan"))}, "guidance: nan is outside"),
    "interval NaN": ({"guidance_interval": f4(np.nan, 1)}, "guidance_interval: nan to 1 is not"),
    "interval down": ({"guidance_interval": f4(0.8, 0.2)}, "guidance_interval: 0.8 to 0.2 is not"),
    "interval wide": ({"guidance_interval": f4(0, 1.5)}, "0 to 1.5 is not .* low to high within 0"),
    "interval rank": ({"guidance_interval": f4(0.5)}, r"guidance_interval: shape \[1\], but \[2\]"),
    "seed < 0": ({"seed": np.array([-(2**63)])}, "seed: -9223372036854775808 is outside"),
    "latent": ({"latent": f4(0).reshape(1, 1, 1, 1, 1)}, r"latent: shape \[1, 1, 1, 1, 1\] does"),
    "latent NaN": (
        {"size": i4(32, 32, 32), "latent": np.full((1, 4, 8, 8, 8), np.nan, np.float32)},
        "latent: holds NaN",
    ),
}


@pytest.mark.parametrize(("inputs", "sentence"), BAD.values(), ids=BAD.keys())
def test_an_invalid_request_gets_one_sentence(mini: Variant, inputs: Any, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence) as caught:
        complete(mini, inputs)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_every_unknown_label_is_listed(mini: Variant) -> None:
    labels = mask(32, 32, 32)
    labels[0, 0, :3] = 3, 255, 1
    with pytest.raises(InvalidRequest, match="mask: holds 1, 3, 255, and"):
        complete(mini, {"mask": labels})


def test_a_huge_mask_is_refused_without_reading_it(mini: Variant) -> None:
    # Reading 64 TB of voxels would take hours.
    huge = np.broadcast_to(np.uint8(22), (40000, 40000, 40000))
    with pytest.raises(InvalidRequest, match="40000 x 40000 x 40000 voxels is outside"):
        complete(mini, {"mask": huge})


def test_a_signed_plan_is_parsed(mini: Variant) -> None:
    plan = complete(mini, {"mask": mask(33, 48, 50), "guidance": f4(2.5), "seed": np.array([7])})
    plan = dataclasses.replace(plan, guidance_interval=(0.1, 0.7))
    parsed = parse_plan(mini, text_bytes(signed(plan, started=12.5, condition_seconds=0.25)))
    assert parsed == dataclasses.replace(plan, started=12.5, condition_seconds=0.25)


@pytest.mark.parametrize(
    "change", [{"steps": 999}, {"seed": 8}, {"padded_size": [32, 32, 64]}, {"more": 1}, {}]
)
def test_a_plan_that_this_server_did_not_sign_is_refused(
    mini: Variant, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_plan = signed(complete(mini, {"size": i4(32, 32, 32)}))
    assert parse_plan(mini, text_bytes(signed_plan)).steps == 30
    signature, fields = signed_plan[:64], json.loads(signed_plan[64:])
    if not change:  # the same plan, signed by another server
        monkeypatch.setenv("MAISI_TOKEN", "another" * 5)
    with pytest.raises(InvalidRequest, match=r"^plan: not what mini\.condition of this server"):
        parse_plan(mini, text_bytes(signature + json.dumps(fields | change)))


def test_a_plan_of_another_variant_is_refused(mini: Variant, regional: Variant) -> None:
    plan = complete(regional, {"size": i4(32, 32, 32)})
    with pytest.raises(InvalidRequest, match=r"^plan: not what mini\.condition of this server"):
        parse_plan(mini, text_bytes(signed(plan)))


@pytest.mark.parametrize("data", ["", "[]", "[" * 9000, "null", "{}", b"\xff", "x" * 20000])
def test_a_text_that_is_no_plan_is_refused(mini: Variant, data: str | bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^plan: "):
        parse_plan(mini, text_bytes(data))


def region_mask(*ids: int) -> np.ndarray[Any, Any]:
    labels = mask(32, 32, 32, label=200)
    labels[0, 0, : len(ids)] = ids
    return labels


@pytest.mark.parametrize(
    ("inputs", "top", "bottom"),
    [
        ({}, "chest", "abdomen"),
        ({"mask": region_mask()}, "chest", "abdomen"),
        ({"mask": region_mask(93, 22)}, "head", "lower"),
        ({"mask": region_mask(28)}, "chest", "chest"),
        ({"mask": region_mask(1, 93), "top_region": text("head")}, "head", "lower"),
        ({"mask": region_mask(1, 93), "bottom_region": text("abdomen")}, "abdomen", "abdomen"),
        ({"top_region": text("lower"), "bottom_region": text("lower")}, "lower", "lower"),
    ],
)
def test_regions_are_those_of_the_request_the_mask_or_the_defaults(
    regional: Variant, inputs: Any, top: str, bottom: str
) -> None:
    plan = complete(regional, inputs)
    assert (plan.top_region, plan.bottom_region) == (top, bottom)
    assert parse_plan(regional, text_bytes(signed(plan))) == plan


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (
            {"anatomy": text("liver=1"), "bottom_region": text("lower")},
            "bottom_region: an anatomy takes both regions or neither",
        ),
        ({"top_region": text("foot")}, "top_region: 'foot' is not one of head, chest, abdomen"),
        ({"bottom_region": text("")}, "bottom_region: '' is not one of head"),
        ({"bottom_region": text(b"\xff")}, "bottom_region: .* is not text in UTF-8"),
        (
            {"top_region": text("lower"), "bottom_region": text("head")},
            "top_region: 'lower' is below bottom_region, which is 'head'; from top to bottom",
        ),
        ({"top_region": text("lower")}, "'lower' is below bottom_region, which is 'abdomen'"),
    ],
)
def test_invalid_regions_are_refused(regional: Variant, inputs: Any, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence) as caught:
        complete(regional, inputs)
    assert "\n" not in str(caught.value)


def test_other_variants_have_no_regions(mini: Variant) -> None:
    plan = complete(mini, {"top_region": text("head")})
    assert (plan.top_region, plan.bottom_region) == (None, None)


def test_a_preset_gives_size_spacing_and_modality(mini: Variant) -> None:
    plan = complete(mini, {"preset": text("brain-t2")})
    preset = mini["presets"]["brain-t2"]
    assert (plan.preset, plan.modality) == ("brain-t2", "mri_t2")
    assert (list(plan.size), list(plan.spacing)) == (preset["size"], preset["spacing"])
    plan = complete(mini, {"preset": text("brain-t2"), "modality": text("mri_flair")})
    assert plan.modality == "mri_flair"


def test_a_preset_gives_regions(regional: Variant) -> None:
    lower = {"modality": "mri_t1", "size": [32] * 3, "spacing": [2] * 3, "regions": ["lower"]}
    variant_json = regional | {"presets": {"lower": lower}}
    plan = complete(variant_json, {"preset": text("lower")})
    assert (plan.top_region, plan.bottom_region) == ("lower", "lower")
    assert complete(variant_json, {}).top_region == "chest"


def test_a_source_gives_size_and_a_strength(mini: Variant) -> None:
    source = np.zeros((40, 48, 50), np.float32)
    plan = complete(mini, {"source": source})
    assert (plan.size, plan.sourced, plan.strength) == ((40, 48, 50), True, 0.8)
    assert not plan.masked
    plan = complete(mini, {"source": source, "mask": mask(40, 48, 50), "strength": f4(0.25)})
    assert (plan.masked, plan.strength) == (True, 0.25)
    assert complete(mini, {}).strength == 1


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"preset": text("knee")}, "preset: 'knee' is not one of those of mini: brain-t1, "),
        (
            {"preset": text("brain-t1"), "mask": mask(32, 32, 32)},
            "preset: cannot be combined with a mask, which has its own size",
        ),
        (
            {"source": np.zeros((32, 32, 40), np.float32), "mask": mask(32, 32, 32)},
            "source: 32 x 32 x 40 voxels, but the mask has 32 x 32 x 32",
        ),
        ({"strength": np.array([0.5], np.float32)}, "strength: needs a source"),
        (
            {"source": np.zeros((32, 32, 32), "f4"), "strength": np.array([1.5], "f4")},
            "strength: 1.5 is outside the allowed range, 0 to 1",
        ),
        (
            {"source": np.zeros((32, 32, 32), "f4"), "size": np.array([32, 32, 32])},
            "size: cannot be combined with a source, which has its own size",
        ),
        ({"redraws": np.array([6])}, "redraws: 6 is outside the allowed range, 0 to 5"),
        (
            {"redraws": np.array([1]), "latent": np.zeros((1, 4, 24, 28, 24), np.float32)},
            "redraws: cannot be combined with a latent",
        ),
        (
            {"redraws": np.array([0]), "latent": np.zeros((1, 4, 24, 28, 24), np.float32)},
            "redraws: cannot be combined with a latent",
        ),
        ({"redraws": np.array([1])}, "redraws: needs a mask or an anatomy"),
        ({"organs": text("brain")}, "organs: needs a mask or an anatomy"),
    ],
)
def test_inputs_that_exclude_each_other_are_refused(
    mini: Variant, inputs: Any, sentence: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"^{sentence}"):
        complete(mini, inputs)


def test_plans_of_every_mode_are_parsed(mini: Variant) -> None:
    for inputs in (
        {"preset": text("brain-flair"), "redraws": np.array([0])},
        {"preset": text("brain-flair"), "anatomy": text("head=1"), "redraws": np.array([2])},
        {"source": np.zeros((32, 32, 32), np.float32), "strength": f4(0.3)},
        {"source": np.zeros((32, 32, 32), np.float32), "mask": mask(32, 32, 32)},
    ):
        plan = complete(mini, inputs)
        assert parse_plan(mini, text_bytes(signed(plan))) == plan
