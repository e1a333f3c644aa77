"""The cleanup of generated masks, on volumes small enough to know the result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from backends.maisi.mask_cleanup import ORGANS, clean, close, keep_largest
from backends.maisi.morphology import CORNERS

Mask = np.ndarray[Any, np.dtype[np.uint8]]

BODY = 200


def body() -> Mask:
    """Return a cube of body of 40 voxels a side, with air around."""
    labels = np.zeros((48, 46, 44), np.uint8)
    labels[4:44, 3:43, 2:42] = BODY
    return labels


def cube(labels: Mask, label: int, corner: tuple[int, int, int], *sides: int) -> Mask:
    """Set a box, of one side or of three, and return it."""
    lengths = sides * 3 if len(sides) == 1 else sides
    box = tuple(slice(a, a + side) for a, side in zip(corner, lengths, strict=True))
    labels[box] = label
    return labels[box]


def test_a_clean_mask_stays_and_the_input_is_not_changed() -> None:
    labels = body()
    cube(labels, 1, (10, 10, 10), 8)
    cube(labels, 15, (30, 10, 10), 5)
    original = labels.copy()
    out = clean(labels, None)
    assert out.dtype == np.uint8
    assert (out == original).all()
    assert out is not labels
    labels[12, 12, 12] = 26
    original = labels.copy()
    assert (clean(labels, None) != original).any()
    assert (labels == original).all()


@pytest.mark.parametrize("sides", [(1, 1, 1), (2, 3, 1), (6, 5, 4)])
@pytest.mark.parametrize("label", [0, 26, BODY])
def test_any_shape_is_accepted(sides: tuple[int, int, int], label: int) -> None:
    assert clean(np.full(sides, label, np.uint8), 26).shape == sides


def test_only_the_largest_body_stays() -> None:
    labels = body()
    cube(labels, 0, (4, 3, 20), 40, 40, 3)  # apart: 18 planes below, 19 above
    cube(labels, BODY, (10, 10, 20), 2, 9, 3)  # a bridge that is too thin
    cube(labels, 1, (30, 30, 10), 5)
    cube(labels, 15, (30, 30, 30), 5)
    out = clean(labels, None)
    assert not out[..., :23].any()
    assert (out[..., 23:] == labels[..., 23:]).all()


def test_thin_parts_of_the_body_are_removed() -> None:
    labels = body()
    cube(labels, BODY, (44, 20, 20), 4, 2, 9)
    cube(labels, BODY, (44, 30, 20), 4, 3, 9)
    out = clean(labels, None)
    assert not out[44:, 20:22].any()
    assert (out[44:, 30:33, 20:29] == BODY).all()


@pytest.mark.parametrize("organ", [*ORGANS, 33, 46, 59])
def test_only_the_largest_piece_of_an_organ_stays(organ: int) -> None:
    labels = body()
    small, large = cube(labels, organ, (8, 8, 8), 4), cube(labels, organ, (20, 20, 20), 5)
    speck = cube(labels, organ, (30, 30, 30), 1)
    large[0, 0, 0] = BODY
    labels[19, 19, 19] = organ  # apart from the rest
    out = clean(labels, None)
    small[...], speck[...], labels[19, 19, 19] = BODY, BODY, BODY
    assert (out == labels).all()


def test_a_shared_corner_connects() -> None:
    labels = body()
    cube(labels, 1, (20, 20, 20), 5)
    cube(labels, 1, (17, 17, 17), 3)
    assert (clean(labels, None) == labels).all()


def test_other_labels_and_bones_beside_a_bone_lesion_may_be_in_pieces() -> None:
    labels = body()
    for label, x in ((15, 8), (60, 16), (40, 24)):
        cube(labels, label, (x, 8, 8), 4)
        cube(labels, label, (x, 20, 20), 5)
    assert (clean(labels, 128) == labels).all()
    labels[24:28, 8:12, 8:12] = BODY
    out = body()
    out[labels != BODY] = labels[labels != BODY]
    cube(labels, 40, (24, 8, 8), 4)
    assert (clean(labels, None) == out).all()


ORGAN_OF = {23: 28, 24: 4, 26: 1, 27: 62, 128: BODY}


@pytest.mark.parametrize("requested", [None, *ORGAN_OF])
@pytest.mark.parametrize("tumour", ORGAN_OF)
def test_only_the_requested_tumour_stays(tumour: int, requested: int | None) -> None:
    labels = body()
    cube(labels, ORGAN_OF[tumour], (10, 10, 10), 15)
    tumour_box = cube(labels, tumour, (14, 14, 14), 4)
    out = clean(labels, requested)
    if tumour != requested:
        tumour_box[...] = ORGAN_OF[tumour]
    assert (out == labels).all()


@pytest.mark.parametrize("tumour", ORGAN_OF)
def test_liver_and_bone_alone_may_have_several_tumours(tumour: int) -> None:
    labels = body()
    cube(labels, tumour, (10, 10, 10), 5)
    second = cube(labels, tumour, (30, 30, 30), 4)
    out = clean(labels, tumour)
    if tumour not in (26, 128):
        second[...] = BODY
    assert (out == labels).all()


@pytest.mark.parametrize("tumour", ORGAN_OF)
def test_gaps_in_the_tumour_are_closed(tumour: int) -> None:
    labels = body()
    tumour_box = cube(labels, tumour, (10, 10, 10), 9)
    cube(labels, 15, (12, 12, 12), 2)
    out = clean(labels, tumour)
    tumour_box[...] = tumour
    assert (out == labels).all()


def test_bowel_apart_from_the_intestines_becomes_body() -> None:
    labels = body()
    cube(labels, 12, (8, 8, 8), 6)
    cube(labels, 13, (14, 8, 8), 4)
    cube(labels, 19, (18, 12, 12), 5)  # by a corner
    cube(labels, 62, (23, 12, 12), 5)
    # Larger than any of the others, and than bowel and colon, but not than all together.
    apart = [cube(labels, 19, (8, 30, 8), 7), cube(labels, 62, (20, 30, 8), 7)]
    out = clean(labels, None)
    for piece in apart:
        piece[...] = BODY
    assert (out == labels).all()


def test_a_stomach_apart_from_the_intestines_stays() -> None:
    labels = body()
    cube(labels, 12, (8, 8, 8), 6)
    cube(labels, 13, (15, 8, 8), 4)
    cube(labels, 62, (10, 24, 20), 20, 12, 20)
    assert (clean(labels, None) == labels).all()


@pytest.mark.parametrize("organ", [*ORGANS, 33, 59])
def test_gaps_of_two_voxels_are_closed_and_of_three_are_not(organ: int) -> None:
    labels = body()
    cube(labels, organ, (10, 10, 10), 20)
    narrow = cube(labels, 15, (12, 12, 12), 2, 9, 9)
    wide = cube(labels, 15, (20, 12, 12), 3)
    out = clean(labels, None)
    assert (wide == 15).all()
    narrow[...] = organ
    assert (out == labels).all()


@pytest.mark.parametrize("order", [[1, 4], [4, 1], [10, 4, 1, 10]])
def test_closing_gives_a_gap_to_the_last_organ_beside_it(order: list[int]) -> None:
    labels = body()
    for side in (10, 16):  # a cross, with a gap in its middle
        cube(labels, order[-1], (side, 14, 10), 4, 2, 10)
        cube(labels, order[-2], (14, side, 10), 2, 4, 10)
    close(labels, order)
    assert (labels[14:16, 14:16, 10:20] == order[-1]).all()


def test_the_gallbladder_is_closed_twice() -> None:
    labels = body()
    for side in (10, 16):  # the cross again, with its arms joined at either end
        cube(labels, 10, (side, 14, 10), 4, 2, 10)
        cube(labels, 12, (14, side, 10), 2, 4, 10)
    cube(labels, 10, (10, 14, 9), 10, 2, 1)
    cube(labels, 12, (14, 10, 20), 2, 10, 1)
    assert (clean(labels, None)[14:16, 14:16, 10:20] == 10).all()


def noise(seed: int, shape: tuple[int, int, int], labels: int) -> Mask:
    """Return random pieces of background and labels 1 to `labels`."""
    fields = np.random.default_rng(seed).standard_normal((labels + 1, *shape))
    smooth = np.array([ndimage.gaussian_filter(field, 1) for field in fields])
    noise_labels: Mask = np.argmax(smooth, 0).astype(np.uint8)
    return noise_labels


def test_closing_is_that_of_whole_volumes() -> None:
    labels = noise(0, (23, 19, 21), 3)
    expected = labels.copy()
    for label in (2, 1, 3, 2):
        wide = ndimage.binary_dilation(expected == label, CORNERS)
        expected[ndimage.binary_erosion(wide, CORNERS, border_value=0)] = label
    assert (expected != labels).any()
    close(labels, [2, 1, 3, 2])
    assert (labels == expected).all()


def flood(inside: Any) -> list[list[tuple[int, ...]]]:
    """Return the pieces of `inside` by a flood fill, in order."""
    unvisited = dict.fromkeys(tuple(voxel) for voxel in np.argwhere(inside).tolist())
    pieces = []
    while unvisited:
        piece, queue = [], [next(iter(unvisited))]
        del unvisited[queue[0]]
        while queue:
            voxel = queue.pop()
            piece.append(voxel)
            for step in np.ndindex(3, 3, 3):
                neighbour = tuple(a + b - 1 for a, b in zip(voxel, step, strict=True))
                if neighbour in unvisited:
                    del unvisited[neighbour]
                    queue.append(neighbour)
        pieces.append(piece)
    return pieces


def test_the_largest_piece_is_that_of_a_flood_fill() -> None:
    labels = noise(1, (16, 14, 15), 5)
    expected = labels.copy()
    for label in (1, 2, 4, 5):
        pieces = sorted(flood(labels == label), key=len)
        assert len(pieces) > 1
        for piece in pieces[:-1]:
            expected[tuple(np.array(piece).T)] = 9
    keep_largest(labels, [1, 2, 4, 5], replacement=9)
    assert (labels == expected).all()


def test_of_equal_pieces_the_last_stays() -> None:
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[0, 8, 8] = labels[4, 4, 4] = labels[8, 0, 0] = 3
    keep_largest(labels, [3])
    assert labels[8, 0, 0] == 3
    assert labels[0, 8, 8] == labels[4, 4, 4] == BODY


def test_of_two_pieces_larger_than_the_rest_both_stay() -> None:
    labels = np.full((9, 5, 5), 3, np.uint8)
    labels[4] = 7
    labels[4, 0, 0] = 1
    keep_largest(labels, [3], replacement=BODY)
    assert (labels[:4] == 3).all()
    assert (labels[4] == BODY).all()
    assert (labels[5:] == 3).all()


def test_vessels_become_liver_and_the_airway_stays() -> None:
    labels = body()
    cube(labels, 1, (10, 10, 10), 9)
    vessel = cube(labels, 25, (12, 12, 12), 4)
    labels[0, 0, 0] = 25  # beyond the body even
    cube(labels, 28, (25, 10, 10), 9)
    cube(labels, 132, (28, 12, 12), 1, 1, 9)  # which closing the lung covers
    labels[0, 0, 9] = 132
    out = clean(labels, None)
    vessel[...], labels[0, 0, 0] = 1, 1
    assert (out == labels).all()


@pytest.mark.parametrize(("tumour", "organ"), [(23, 28), (24, 4), (128, 1)])
def test_a_tumour_that_closing_covered_is_restored(tumour: int, organ: int) -> None:
    labels = body()
    cube(labels, organ, (10, 10, 10), 9)
    cube(labels, tumour, (13, 13, 13), 2)
    assert (clean(labels, tumour) == labels).all()


def test_a_hepatic_tumour_that_closing_covered_is_not_restored() -> None:
    labels = body()
    cube(labels, 1, (10, 10, 10), 15)
    narrow = cube(labels, 26, (12, 12, 12), 2)
    cube(labels, 26, (18, 18, 18), 3)
    out = clean(labels, 26)
    narrow[...] = 1
    assert (out == labels).all()


def test_the_lobe_around_a_lung_tumour_grows_near_it() -> None:
    labels = body()
    cube(labels, 29, (4, 3, 2), 20, 40, 40)
    cube(labels, 15, (24, 3, 2), 20, 40, 40)
    cube(labels, 23, (18, 20, 20), 5)
    out = clean(labels, 23)
    cube(labels, 29, (24, 18, 18), 1, 9, 9)
    assert (out == labels).all()


def test_the_lobe_is_closed_once_more_after_that() -> None:
    labels = body()
    labels[labels == BODY] = 29
    slot = cube(labels, 15, (24, 10, 10), 3, 28, 28)
    cube(labels, 23, (18, 20, 20), 5)
    out = clean(labels, 23)
    slot[:, 8:17, 8:17] = 29
    assert (out == labels).all()


def test_the_lobe_around_a_lung_tumour_grows_by_at_most_three_voxels() -> None:
    labels = body()
    labels[24:] = 0
    labels[labels == BODY] = 29
    cube(labels, 23, (24, 20, 20), 5)
    out = clean(labels, 23)
    cube(labels, 29, (24, 18, 18), 3, 9, 9)
    cube(labels, 23, (24, 20, 20), 5)
    assert (out == labels).all()


def test_no_lobe_but_the_most_frequent_label_counts_around_a_lung_tumour() -> None:
    labels = body()
    cube(labels, 29, (4, 3, 2), 8, 40, 40)
    cube(labels, 15, (12, 3, 2), 32, 40, 40)
    cube(labels, 23, (12, 20, 20), 5)
    assert (clean(labels, 23) == labels).all()
    labels[labels == 15] = 29
    cube(labels, 15, (11, 19, 19), 7)  # one voxel thick, but all around
    cube(labels, 23, (12, 20, 20), 5)
    assert (clean(labels, 23) == labels).all()


@pytest.mark.parametrize(
    ("tumour", "organ", "distance"), [(23, 29, 3), (23, 15, 2), (26, 1, 2), (27, 62, 2)]
)
def test_a_tumour_regains_removed_voxels_near_it(tumour: int, organ: int, distance: int) -> None:
    labels = body()
    cube(labels, organ, (8, 8, 8), 24)
    cube(labels, tumour, (12, 12, 12), 5)
    cube(labels, 14, (34, 34, 34), 7)
    removed = cube(labels, 14, (17, 13, 13), 6, 3, 3)
    out = clean(labels, tumour)
    removed[...] = BODY
    removed[:distance] = tumour
    assert (out == labels).all()


@pytest.mark.parametrize("tumour", [24, 128])
def test_other_tumours_regain_nothing(tumour: int) -> None:
    labels = body()
    cube(labels, tumour, (12, 12, 12), 5)
    cube(labels, 14, (34, 34, 34), 7)
    removed = cube(labels, 14, (17, 13, 13), 6, 3, 3)
    out = clean(labels, tumour)
    removed[...] = BODY
    assert (out == labels).all()


@pytest.mark.parametrize("has_tumour", [True, False])
@pytest.mark.parametrize(("organ", "astray"), [(1, 19), (1, 62), (3, 14)])
def test_with_a_hepatic_tumour_liver_and_spleen_regain_removed_voxels(
    organ: int, astray: int, has_tumour: bool
) -> None:
    labels = body()
    cube(labels, organ, (8, 8, 8), 6)
    cube(labels, astray, (28, 28, 28), 12)
    removed = cube(labels, astray, (14, 8, 8), 9, 6, 6)
    if has_tumour:
        cube(labels, 26, (30, 6, 6), 5)
    out = clean(labels, 26)
    removed[...] = BODY
    if has_tumour:
        removed[:6] = organ  # three voxels, twice
    assert (out == labels).all()


@pytest.mark.parametrize(("organ", "astray"), [(1, 14), (3, 19)])
def test_liver_regains_bowel_alone_and_spleen_all_but_bowel(organ: int, astray: int) -> None:
    labels = body()
    cube(labels, organ, (8, 8, 8), 6)
    cube(labels, astray, (28, 28, 28), 12)
    removed = cube(labels, astray, (14, 8, 8), 9, 6, 6)
    cube(labels, 26, (30, 6, 6), 5)
    out = clean(labels, 26)
    removed[...] = BODY
    assert (out == labels).all()


def test_the_liver_is_closed_once_more_after_that() -> None:
    labels = body()
    cube(labels, 1, (8, 8, 8), 16)
    slot = cube(labels, 15, (12, 12, 12), 3, 6, 6)
    slot[0] = 19
    cube(labels, 19, (28, 28, 28), 12)
    cube(labels, 26, (30, 6, 6), 5)
    out = clean(labels, 26)
    slot[...] = 1
    assert (out == labels).all()
