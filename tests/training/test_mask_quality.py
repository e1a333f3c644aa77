"""The measures of drawn masks: sizes that are followed, masks that are copies."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.training.painted import held_out_masks, moved
from training import mask_quality, masks

FIRST, SECOND = held_out_masks()
SHAPE = (96, 112, 96)
TYPICAL = np.array([[0.3, 0.5, 0.6, 0.4], [0.5, -1, 0.2, 0.6]], np.float32)
NAMES = [size.name for size in masks.SIZES]


def obedient(request: NDArray[np.float32], seed: int) -> NDArray[np.uint8]:
    """Return a mask with exactly the sizes asked."""
    counts = {}
    for size, value in zip(masks.SIZES, request, strict=True):
        counts[size.labels[-1]] = round(size.millilitres(float(value)) / masks.VOXEL_ML)
    counts[240] -= sum(count for label, count in counts.items() if label != 240)
    mask = np.zeros(np.prod(SHAPE), np.uint8)
    filled = np.repeat(np.array(list(counts), np.uint8), list(counts.values()))
    mask[: filled.size] = filled
    return mask.reshape(SHAPE)


def deaf(request: NDArray[np.float32], seed: int) -> NDArray[np.uint8]:
    """Return a mask with random sizes, a tumour among them."""
    rng = np.random.default_rng(seed)
    return obedient(rng.uniform([0.1, 0.1, 0.1, 0.5], 0.9).astype(np.float32), seed)


def test_a_size_that_is_followed_has_correlation_one() -> None:
    table = mask_quality.follow(obedient, TYPICAL, draws=6, seed=0)
    assert list(table) == NAMES
    for row in table.values():
        assert row["correlation"] > 0.999
        assert row["error"] < 0.01
        assert row["absent"] == row["unasked"] == 0


def test_a_size_that_is_ignored_has_none() -> None:
    table = mask_quality.follow(deaf, TYPICAL, draws=25, seed=0)
    for row in table.values():
        assert abs(row["correlation"]) < 0.6
        assert row["error"] > 0.1
        assert row["unasked"] == 1


def test_one_lesion_is_asked_at_a_time_and_each_size_over_its_range() -> None:
    requests = []

    def draw(request: NDArray[np.float32], seed: int) -> NDArray[np.uint8]:
        requests.append((tuple(request.tolist()), seed))
        return FIRST

    mask_quality.follow(draw, TYPICAL, draws=10, seed=3)
    rows = np.array([row for row, _ in requests]).reshape(4, 10, 4)
    for index, name in enumerate(NAMES):
        asked = rows[index, :, index]
        assert ((asked >= 0.05) & (asked <= 0.95)).all(), name
        assert np.ptp(asked) > 0.4, name
        lesions = [lesion for lesion in (1, 2) if lesion != index]
        assert (rows[index][:, lesions] == -1).all(), name
    assert len({seed for _, seed in requests}) == 40


def test_lesions_that_never_appear_are_absent() -> None:
    def draw(request: NDArray[np.float32], seed: int) -> NDArray[np.uint8]:
        return obedient(np.where([False, True, True, False], -1, request).astype(np.float32), seed)

    table = mask_quality.follow(draw, TYPICAL, draws=4, seed=0)
    for name, lesion in zip(NAMES, (False, True, True, False), strict=True):
        assert table[name]["absent"] == float(lesion)
        assert table[name]["correlation"] == pytest.approx(0 if lesion else 1, abs=0.01)


def test_dice_is_the_mean_over_the_labels_of_both() -> None:
    first, second = (np.zeros((8, 8, 8), np.uint8) for _ in range(2))
    first[:4], second[2:6] = 22, 22  # half of each overlaps
    first[4:, :4], second[6:, :4] = 227, 227  # Dice 2/3
    second[6:, 4:] = 176  # not in first
    assert mask_quality.nearest_dice(first, [second]) == pytest.approx((0.5 + 2 / 3) / 2)
    assert mask_quality.nearest_dice(first, [second, first]) == 1
    assert mask_quality.nearest_dice(first, [np.zeros_like(first)]) == 0


def test_a_network_that_copies_is_nearer_than_held_out_masks() -> None:
    training = [SECOND, moved(SECOND, 0.9, (3, 0, 0))]
    result = mask_quality.measure(lambda _, seed: training[seed % 2], training, [FIRST], 1, 3)
    assert result["nearest"]["drawn"] == [1.0, 1.0, 1.0]
    (held_out,) = result["nearest"]["held out"]
    assert 0.1 < held_out < 0.9


def test_masks_are_drawn_with_the_sizes_of_training_masks() -> None:
    requests = []

    def draw(request: NDArray[np.float32], seed: int) -> NDArray[np.uint8]:
        requests.append((request.tolist(), seed))
        return FIRST

    mask_quality.measure(draw, [SECOND], [FIRST], draws=2, new=3)
    assert [row for row, _ in requests[:3]] == [masks.sizes(SECOND).tolist()] * 3
    assert len({seed for _, seed in requests}) == 3 + 4 * 2


def test_the_tables_have_a_row_for_each_size_and_kind_of_mask() -> None:
    row = {"correlation": 0.876, "error": 0.1, "absent": 0.25, "unasked": 0.0}
    quality = {"follow": dict.fromkeys(NAMES, row), "nearest": {"drawn": [0.5, 0.7]}}
    text = mask_quality.markdown(quality)
    assert "| ventricles | 5 to 50 | 0.88 | 0.10 | 25% | 0% |" in text
    assert text.endswith("| drawn | 2 | 0.60 | 0.70 |")
