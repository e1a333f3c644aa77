"""The measures of volumes that were made without a mask separate a head from other volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from tests.training.painted import held_out_masks, moved, paint
from training import atlas, image_only
from training.anatomy import FLUID
from training.image_only import Atlas
from training.synthesis import CONTRASTS, WHITE

HELD_OUT, TRAINING = held_out_masks()
SPACING = 2.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("subjects")
    masks = [TRAINING, moved(TRAINING, 0.9, (3, -2, 0)), moved(TRAINING, 0.95, (0, 4, -3))]
    for seed, mask in enumerate(masks):
        images = np.stack([paint(mask, n, seed) for n in range(4)]).astype(np.float16)
        np.savez(folder / f"{seed}.npz", mask=mask, images=images, spacing=SPACING)
    return sorted(folder.glob("*.npz"))


@pytest.fixture(scope="module")
def reference(files: list[Path]) -> Atlas:
    return image_only.build(files)


def test_the_largest_piece_is_counted_among_all() -> None:
    inside = np.zeros((20, 20, 20), bool)
    assert image_only.largest_share(inside) == 0
    inside[:3, :5, :5] = True
    inside[10:11, 10:15, 10:15] = True
    assert image_only.largest_share(inside) == 0.75


def test_the_skull_is_foreground_and_air_is_not() -> None:
    volume = paint(HELD_OUT, 0)
    inside = image_only.foreground(volume)
    assert inside[HELD_OUT == 120].mean() > 0.7
    assert not inside[HELD_OUT == 0].any()
    assert image_only.largest_share(inside) > 0.99


@pytest.mark.parametrize("number", range(4))
def test_every_contrast_is_told_from_the_others(reference: Atlas, number: int) -> None:
    alignment = atlas.align(500 * paint(HELD_OUT, number), reference.shares)
    assert image_only.contrast_of(alignment) == CONTRASTS[number]


def test_a_head_with_halves_of_two_is_less_symmetric(reference: Atlas) -> None:
    volume = paint(HELD_OUT, 0)
    alignment = atlas.align(volume, reference.shares)
    other = np.concatenate([np.roll(volume[:48], 9, 1), volume[48:]])
    whole, halves = (
        image_only.symmetry(atlas.on_atlas(image, alignment), reference.shares)
        for image in (volume, other)
    )
    assert whole > halves + 0.05


def test_larger_ventricles_are_more_fluid(reference: Atlas) -> None:
    ventricles = np.isin(HELD_OUT, (233, 234))
    grown = ndimage.binary_dilation(ventricles, iterations=3) & np.isin(HELD_OUT, WHITE)
    enlarged = np.where(grown, np.uint8(233), HELD_OUT)
    few, many = (
        image_only.measure(paint(mask, 1), "mri_t2", reference, SPACING)
        for mask in (HELD_OUT, enlarged)
    )
    added = grown.sum() * 0.008
    assert many["csf_ml"] - few["csf_ml"] == pytest.approx(added, rel=0.4)
    assert few["white_ml"] - many["white_ml"] == pytest.approx(added, rel=0.4)


def test_millilitres_are_near_those_of_the_mask(reference: Atlas) -> None:
    result = image_only.measure(paint(HELD_OUT, 1), "mri_t2", reference, SPACING)
    for key, labels in (("csf_ml", FLUID), ("white_ml", WHITE)):
        assert result[key] == pytest.approx(np.isin(HELD_OUT, labels).sum() * 0.008, rel=0.4)
    twice = image_only.measure(paint(HELD_OUT, 1), "mri_t2", reference, 2 * SPACING)
    assert twice["grey_ml"] == 8 * result["grey_ml"]
    assert result["border_ratio"] > 1.5


def test_tissues_follow_the_order_of_the_contrast_that_was_asked(reference: Atlas) -> None:
    volume = paint(HELD_OUT, 1)
    alignment = atlas.align(volume, reference.shares)
    segmentation = image_only.segment(volume, "mri_t2", alignment, reference.shares)
    as_t1 = image_only.segment(volume, "mri_t1", alignment, reference.shares)
    assert (as_t1 == np.array([0, 3, 2, 1], np.uint8)[segmentation]).all()
    white = segmentation[ndimage.binary_erosion(np.isin(HELD_OUT, WHITE), iterations=2)]
    assert (white == 3).mean() > 0.9


def test_a_copy_of_a_training_volume_is_found(reference: Atlas, files: list[Path]) -> None:
    images = np.load(files[1])["images"].astype(np.float32)
    for number in (0, 3):
        name = CONTRASTS[number]
        copy = image_only.measure(0.7 * images[number], name, reference, SPACING)
        own = image_only.measure(paint(HELD_OUT, number), name, reference, SPACING)
        assert copy["nearest"] > 0.85
        assert own["nearest"] < 0.6


def test_texture_and_an_empty_volume_are_no_heads(reference: Atlas) -> None:
    noise: NDArray[np.float32] = np.random.default_rng(0).random(HELD_OUT.shape, np.float32)
    texture = np.where(HELD_OUT == 0, np.float32(0), noise)
    head, other, empty = (
        image_only.measure(volume, "mri_t1", reference, SPACING)
        for volume in (paint(HELD_OUT, 0), texture, np.zeros_like(texture))
    )
    assert head["symmetry"] > other["symmetry"] + 0.3
    assert head["explained"] > other["explained"] + 0.3
    assert empty["largest_share"] == empty["grey_ml"] == empty["explained"] == 0
    assert empty["border"] is None


def test_the_table_has_mean_and_deviation() -> None:
    values = dict.fromkeys(image_only.COLUMNS, 0.5)
    rows: list[dict[str, Any]] = [
        {**values, "modality": "mri_t1", "contrast": "mri_t1", "csf_ml": 100.0},
        {**values, "modality": "mri_t1", "contrast": "mri_t2", "csf_ml": 300.0, "border": None},
    ]
    header, rule, line = image_only.table({"generated": rows}).splitlines()
    assert header.count("|") == rule.count("|") == line.count("|")
    assert line.startswith("| generated | 1 of 2 | 0.500 ± 0.000 |")
    assert "| 200 ± 100 |" in line
