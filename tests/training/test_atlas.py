"""The atlas of tissues, and the alignment of a volume that has no mask."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.training.painted import held_out_masks, moved, paint
from training import atlas
from training.synthesis import FLIP, OUTSIDE

FIRST, SECOND = held_out_masks()
BRAIN = slice(0, 5)  # of the regions


@pytest.fixture(scope="module")
def shares() -> NDArray[np.float32]:
    """Return an atlas of which the mask FIRST is no part."""
    return atlas.maps([SECOND, moved(SECOND, 0.95, (2, 0, -2))])


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_every_label_of_the_head_has_a_region() -> None:
    head = set(np.unique(SECOND).tolist()) - {0, 150, 176}
    assert head <= {label for labels in atlas.REGIONS.values() for label in labels}


def test_shares_are_symmetric_and_sum_to_one_inside(shares: NDArray[np.float32]) -> None:
    assert shares.shape == (len(atlas.REGIONS), 48, 56, 48)
    np.testing.assert_allclose(shares, shares[:, ::-1], atol=1e-6)
    total = shares.sum(0)
    assert total.max() == pytest.approx(1)
    assert total[24, 28, 24] == pytest.approx(1)
    assert total[0, 0, -1] == 0


def test_masks_are_aligned_before_they_are_averaged() -> None:
    copies = [moved(SECOND, 0.85, (5, -4, 0)), moved(SECOND, 0.85, (-5, 4, 0))]
    certain = [(atlas.maps(masks)[:3] > 0.9).sum() for masks in (copies[:1], copies)]
    assert certain[1] > 0.7 * certain[0]


@pytest.mark.parametrize("contrast", [0, 1])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, (0, 0, 0)), (0.85, (7, -5, -6))])
def test_the_brain_is_found_in_any_contrast_place_and_size(
    shares: NDArray[np.float32], contrast: int, scale: float, shift: tuple[int, int, int]
) -> None:
    mask = moved(FIRST, scale, shift)
    volume = 300 * paint(mask, contrast)
    alignment = atlas.align(volume, shares)
    brain = atlas.on_volume(shares[BRAIN].sum(0), alignment, volume.shape) > 0.5
    truth = ~np.isin(mask, (0, *OUTSIDE))
    assert dice(brain, truth) > 0.92
    unmoved = atlas.Alignment(np.eye(3), np.zeros(3), alignment.means, 0.0)
    before = atlas.on_volume(shares[BRAIN].sum(0), unmoved, volume.shape) > 0.5
    assert dice(before, truth) < dice(brain, truth)


def test_intensities_of_regions_are_in_the_volumes_own_units(shares: NDArray[np.float32]) -> None:
    volume = 300 * paint(FIRST, 0)
    means = dict(zip(atlas.REGIONS, atlas.align(volume, shares).means, strict=True))
    for name, expected in (("fluid", 0.14), ("grey", 0.52), ("white", 0.84)):
        assert means[name] == pytest.approx(300 * expected, abs=30)


def test_a_head_is_explained_and_texture_in_its_outline_is_not(
    shares: NDArray[np.float32],
) -> None:
    noise = np.random.default_rng(0).random(FIRST.shape, np.float32)
    texture = np.where(FIRST == 0, np.float32(0), noise)
    assert atlas.align(paint(FIRST, 0), shares).explained > 0.6
    assert atlas.align(texture, shares).explained < 0.3
    assert atlas.align(np.zeros_like(texture), shares).explained == 0


def test_a_volume_on_the_atlas_lies_as_its_mirror_image_does(shares: NDArray[np.float32]) -> None:
    both = np.where(FLIP[FIRST[::-1]] == FIRST, FIRST, np.uint8(22))
    volume = paint(moved(both, 0.9, (6, 0, 0)), 0)
    result = atlas.on_atlas(volume, atlas.align(volume, shares))
    own = np.corrcoef(volume.ravel(), volume[::-1].ravel())[0, 1]
    aligned = np.corrcoef(result.ravel(), result[::-1].ravel())[0, 1]
    assert aligned > own + 0.1
