"""Mirror images of masks, and the split into training and held-out masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training import anatomy, data, mask_data


def test_a_mirror_image_has_its_left_on_the_right_side() -> None:
    right, left = anatomy.PAIRS["white"]
    mask = np.array([right, right, anatomy.THIRD, left, 0], np.uint8).reshape(5, 1, 1)
    expected = [0, right, anatomy.THIRD, left, left]
    assert mask_data.mirrored(mask).ravel().tolist() == expected
    assert (mask_data.mirrored(mask_data.mirrored(mask)) == mask).all()


def test_the_first_masks_are_held_out(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    count = mask_data.HELD_OUT + 3
    for number in range(count):
        mask = np.full((2, 2, 2), number, np.uint8)
        np.savez(tmp_path / "masks" / f"{mask_data.FIRST + number}.npz", mask=mask)
    (tmp_path / "masks" / "200099.part.npz").touch()
    held_out = [int(data.load_mask(p)[0, 0, 0]) for p in mask_data.paths(tmp_path, held_out=True)]
    training = [int(data.load_mask(path)[0, 0, 0]) for path in mask_data.paths(tmp_path)]
    assert held_out + training == list(range(count))
    assert len(training) == 3
