"""The body around the organs, with an image and without."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from backends.maisi.envelope import BODY, envelope, fill
from backends.maisi.errors import InvalidRequest

Volume = np.ndarray[Any, Any]


def blocks(seed: int) -> tuple[Volume, Volume]:
    """Return a mask and a CT of blocks of tissue and air, with specks, and a table below."""
    draw = np.random.RandomState(seed)  # the same numbers in every version of numpy
    tissue = draw.choice([-950, -400, 40], (7, 8, 5), p=[0.35, 0.25, 0.4])
    tissue[:, :3] = 40
    tissue[1:6, 1, 1:4] = -950
    organs = draw.randint(1, 130, tissue.shape) * (draw.randint(0, 5, tissue.shape) == 0)
    organs[:, :3] = 0
    block = np.ones((5, 5, 5), int)
    image = np.kron(tissue, block)
    image += draw.randint(-160, 160, image.shape)
    specks = draw.randint(0, 40, image.shape)
    image[specks == 0], image[specks == 1] = 40, -950
    return np.kron(organs, block).astype(np.uint8), image.astype(np.int16)


# Of add_body_envelope in scripts/utils.py of NV-Generate-CTMR, commit da438fe, on `blocks`, by seed
# and seg_has_lung: the voxels of 200, and the CRC-32 of the result.
UPSTREAM = {
    (0, True): (19156, 2220501959),
    (1, True): (20086, 3522558024),
    (1, False): (21901, 222284337),
    (2, True): (17265, 29056471),
    (2, False): (19057, 2348926696),
}


@pytest.mark.parametrize(("seed", "has_lung"), UPSTREAM)
def test_with_an_image_it_is_upstream_s(seed: int, has_lung: bool) -> None:
    mask, image = blocks(seed)
    filled = envelope(mask, image, has_lung)
    fingerprint = np.count_nonzero(filled == BODY), zlib.crc32(filled.tobytes())
    assert fingerprint == UPSTREAM[seed, has_lung]


def test_an_image_without_air_is_all_body() -> None:
    filled = envelope(np.zeros((8, 8, 8), np.uint8), np.zeros((8, 8, 8), np.float32), True)
    assert (filled == BODY).all()


def test_an_image_of_air_has_no_body_but_its_labels() -> None:
    mask, air = np.zeros((8, 8, 8), np.uint8), np.full((8, 8, 8), -1000, np.int16)
    mask[2:7, 2:7, 2:7] = 1
    assert (envelope(mask, air, True) == mask).all()


def test_an_image_of_another_shape_is_refused() -> None:
    mask, image = np.zeros((8, 8, 8), np.uint8), np.zeros((8, 8, 9), np.int16)
    sentence = "^image: 8 x 8 x 9 voxels, but the mask's 8 x 8 x 8 are expected$"
    with pytest.raises(InvalidRequest, match=sentence):
        envelope(mask, image, True)


def tubes(*centres: float, radius: float, thickness: float = 1e3, mm: float = 4) -> Volume:
    """Return tubes of 1 along z, in 300 x 200 x 60 mm, at `centres` mm along x."""
    sides = (int(300 / mm), int(200 / mm), int(60 / mm))
    x, y, _ = (index * mm + mm / 2 for index in np.indices(sides, np.float32))
    mask = np.zeros(sides, np.uint8)
    for centre in centres:
        away = np.hypot(x - centre, y - 100)
        mask[(away < radius) & (away > radius - thickness)] = 1
    return mask


def width(mask: Volume, mm: float) -> list[float]:
    """Return the first and the last mm along x where `mask` has a label halfway up y."""
    row = np.flatnonzero(mask[:, mask.shape[1] // 2, mask.shape[2] // 2])
    return [row[0] * mm, (row[-1] + 1) * mm]


@pytest.mark.parametrize("mm", [1.25, 2, 4])
def test_the_margin_is_in_mm_at_every_spacing(mm: float) -> None:
    mask = tubes(150, radius=40, mm=mm)
    filled = fill(mask, (mm, mm, mm), margin=20)
    assert width(filled, mm) == pytest.approx([90, 210], abs=4)


def test_axes_may_differ_in_spacing() -> None:
    spacing = (1, 2, 1.25)
    x, y, z = (np.arange(n) - n / 2 + 0.5 for n in (184, 92, 150))
    away = np.sqrt(
        (x * spacing[0])[:, None, None] ** 2
        + (y * spacing[1])[:, None] ** 2
        + (z * spacing[2]) ** 2
    )
    filled = fill((away < 40).astype(np.uint8), spacing, margin=30)
    assert (filled[away < 66] > 0).all()
    assert (filled[away > 74] == 0).all()
    assert np.mean(filled != filled[::-1, ::-1, ::-1]) < 1e-3


def test_labels_close_to_each_other_make_one_body_and_legs_do_not() -> None:
    near, far = tubes(98, 202, radius=15), tubes(60, 240, radius=15)
    assert (fill(near, (4, 4, 4))[37, 25] == BODY).all()
    assert (fill(far, (4, 4, 4))[37, 25] == 0).all()


def test_voxels_enclosed_by_labels_are_body_in_every_slice() -> None:
    # No closing of 30 mm reaches the middle.
    hollow = tubes(150, radius=98, thickness=9)
    assert (fill(hollow, (4, 4, 4))[37, 25] == BODY).all()


def test_the_body_continues_beyond_the_first_and_last_slice() -> None:
    # Where a ball of 30 mm passes between the two, it would come in from an end.
    filled = fill(tubes(98, 202, radius=15), (4, 4, 4))
    assert filled[37, 25, 7] == BODY
    assert (filled == filled[..., 7:8]).all()


def test_the_body_does_not_continue_beyond_the_sides() -> None:
    # 30 mm from a side, a closing that is cut off by it would fill all up to it.
    assert (fill(tubes(50, radius=20), (4, 4, 4))[0] == 0).all()


def test_labels_stay() -> None:
    mask = tubes(150, radius=40)
    mask[37, 25] = 7
    original = mask.copy()
    filled = fill(mask, (4, 4, 4))
    assert (mask == original).all()
    assert (filled[mask > 0] == mask[mask > 0]).all()
    assert set(np.unique(filled)) == {0, 1, 7, BODY}


def test_no_labels_no_body() -> None:
    assert not fill(np.zeros((32, 32, 32), np.uint8), (1.5, 1.5, 2)).any()


def test_a_long_side_takes_larger_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def distance(cells: Volume, sampling: list[float]) -> Volume:
        shapes.append(cells.shape)
        return np.asarray(measured(cells, sampling=sampling))

    measured = ndimage.distance_transform_edt
    monkeypatch.setattr(ndimage, "distance_transform_edt", distance)
    mask = np.zeros((400, 20, 20), np.uint8)
    mask[190:210] = 1
    assert width(fill(mask, (4, 4, 4)), 4) == pytest.approx([740, 860], abs=12)
    assert {sides[0] for sides in shapes} == {134 + 2 * 6}
