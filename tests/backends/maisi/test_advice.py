"""Warnings name the nearest preset, and occur only far from all presets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.maisi.advice import nearest, training_share, warnings
from backends.maisi.request import complete
from export import variant

Variant = dict[str, Any]


@pytest.fixture(scope="session")
def brain() -> Variant:
    return variant.load("rflow-mr-brain").parameter({})


@pytest.fixture(scope="session")
def ct() -> Variant:
    return variant.load("rflow-ct").parameter({})


def ask(variant_json: Variant, **inputs: Any) -> Any:
    texts = {"modality", "preset"}
    kinds = {"size": np.int32, "spacing": np.float32}
    return complete(
        variant_json,
        {
            name: np.array([value], object) if name in texts else np.array(value, kinds[name])
            for name, value in inputs.items()
        },
    )


def test_common_presets_raise_no_warning(brain: Variant, ct: Variant) -> None:
    for variant_json in (brain, ct):
        for name in variant_json["presets"]:
            share = training_share(variant_json, name)
            sentences = warnings(variant_json, ask(variant_json, preset=name))
            assert bool(sentences) == (share is not None and share < 0.01), name


def test_a_far_field_of_view_names_the_nearest_preset(brain: Variant) -> None:
    sentences = warnings(brain, ask(brain, size=[128, 128, 128], spacing=[1, 1, 1.0]))
    assert len(sentences) == 1
    assert sentences[0].startswith(
        "field of view: 128 x 128 x 128 mm is far from what rflow-mr-brain"
    )
    assert (
        "t1-axial (256 x 256 x 128 voxels of 0.9375 x 0.9375 x 1.35938 mm, 15 % of" in sentences[0]
    )


def test_a_coarse_spacing_at_the_right_field_of_view(brain: Variant) -> None:
    sentences = warnings(brain, ask(brain, size=[120, 120, 87], spacing=[2, 2, 2.0]))
    assert [text.split(":")[0] for text in sentences] == ["spacing"]


def test_planes_with_few_scans(brain: Variant) -> None:
    plan = ask(brain, preset="swi-sagittal")
    assert plan.modality == "mri_swi"
    assert plan.size == (128, 256, 256)
    (sentence,) = warnings(brain, plan)
    assert sentence.startswith("training data: mri_swi like this was rare")
    assert "swi-sagittal" in sentence


def test_skull_stripped_brains_have_the_presets_of_whole_ones(brain: Variant) -> None:
    plan = ask(brain, modality="mri_flair_skull_stripped", size=[128, 256, 256])
    preset = nearest(brain, plan)
    assert preset is not None
    assert preset[0].startswith("flair")


def test_a_modality_without_presets_has_no_advice(ct: Variant) -> None:
    assert nearest(ct | {"presets": {}}, ask(ct)) is None
    assert warnings(ct | {"presets": {}}, ask(ct, size=[32, 32, 32])) == []


@pytest.mark.parametrize(
    "inputs",
    [
        {"preset": "brain-t2"},
        {"modality": "mri_flair"},
        {"modality": "mri_swi_skull_stripped"},
        {"size": [96, 112, 96], "spacing": [2.0, 2.0, 2.0]},
        {"size": [100, 110, 90], "spacing": [1.9, 2.1, 2.0]},  # near is like it
    ],
)
def test_an_image_alone_like_a_preset_repeats_its_caveat(inputs: dict[str, Any]) -> None:
    mini = variant.load("mini").parameter({})
    (sentence,) = warnings(mini, ask(mini, **inputs))
    assert sentence.startswith("preset brain-") and "little variety" in sentence


def test_a_caveat_is_of_its_preset_and_of_images_alone() -> None:
    mini = variant.load("mini").parameter({})
    far = warnings(mini, ask(mini, size=[32, 32, 32], spacing=[2, 2, 2.0]))
    assert far and not any("little variety" in sentence for sentence in far)
    for key in ("mask", "source"):
        tensor = np.full((96, 112, 96), 22, np.uint8 if key == "mask" else np.float32)
        plan = complete(mini, {key: tensor, "spacing": np.full(3, 2, np.float32)})
        assert warnings(mini, plan) == []
    del mini["presets"]["brain-t1"]["caveat"]
    assert warnings(mini, ask(mini, preset="brain-t1")) == []
    assert len(warnings(mini, ask(mini, preset="brain-t2"))) == 1
