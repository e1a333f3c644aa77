"""Classes and sizes of the masks that the mask networks see."""

from __future__ import annotations

import numpy as np
import pytest

from export import variant as variants
from training import anatomy, masks

VENTRICLES, HYPERINTENSITIES, TUMOUR, HEAD = masks.SIZES


def mask_with(voxels: dict[int, int]) -> anatomy.Labels:
    """Return a mask with so many voxels of each label."""
    mask = np.zeros(96 * 112 * 96, np.uint8)
    filled = np.repeat(np.array(list(voxels), np.uint8), list(voxels.values()))
    mask[: len(filled)] = filled
    return mask.reshape(96, 112, 96)


def test_labels_are_those_that_mini_serves() -> None:
    assert list(masks.LABELS) == sorted(map(int, variants.load("mini").serving["labels"]))


def test_classes_are_numbered_by_label_and_turn_back() -> None:
    mask = np.array([[0, 22, 240], [131, 0, 227]], np.uint8)
    index = masks.classes(mask)
    assert index.dtype == np.uint8
    assert index[0].tolist() == [0, 1, len(masks.LABELS) - 1]
    assert (masks.labels(index) == mask).all()


def test_a_label_that_mini_lacks_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"\[1, 255\]"):
        masks.classes(np.array([0, 255, 22, 1], np.uint8))


@pytest.mark.parametrize("size", masks.SIZES, ids=lambda size: size.name)
@pytest.mark.parametrize("value", [0.0, 0.2, 0.7, 1.0])
def test_a_mask_of_the_millilitres_of_a_size_has_that_size(size: masks.Size, value: float) -> None:
    voxels = round(size.millilitres(value) / 0.008)  # 2 mm x 2 mm x 2 mm
    assert size.of(mask_with({size.labels[-1]: voxels})) == pytest.approx(value, abs=0.01)


@pytest.mark.parametrize("size", masks.SIZES, ids=lambda size: size.name)
def test_sizes_are_clipped_and_what_is_absent_has_none(size: masks.Size) -> None:
    assert size.of(mask_with({})) == size.of(mask_with({size.labels[0]: 4})) == -1
    assert size.millilitres(-1) == 0
    assert size.of(mask_with({size.labels[0]: 5})) == 0
    assert size.of(mask_with({size.labels[0]: 900_000})) == 1


def test_twice_the_diameter_of_a_lesion_is_about_twice_its_size() -> None:
    for size in (HYPERINTENSITIES, TUMOUR):
        small, large = (size.of(mask_with({size.labels[0]: n})) for n in (400, 8 * 400))
        assert large == pytest.approx(2 * small, rel=0.2)


def test_all_ventricles_count_and_so_do_all_labels_of_the_head() -> None:
    parts = {214: 400, 215: 400, 233: 1100, 234: 1100}
    mask = mask_with({**parts, 168: 500_000, 176: 1000})
    values = masks.sizes(mask)
    assert values.dtype == np.float32
    assert VENTRICLES.millilitres(float(values[0])) == pytest.approx(24, rel=1e-4)
    assert values[1] == -1
    assert TUMOUR.millilitres(float(values[2])) == pytest.approx(8, rel=1e-4)
    assert HEAD.millilitres(float(values[3])) == pytest.approx(504_000 * 0.008, rel=1e-4)
    for label in parts:
        fewer = np.where(mask == label, np.uint8(131), mask)
        assert masks.sizes(fewer)[0] < values[0]
