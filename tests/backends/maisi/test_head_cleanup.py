"""The cleanup of generated heads, on small volumes of known result and on the example's mask."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from backends.maisi.head_cleanup import clean
from tests.conftest import ROOT

Mask = np.ndarray[Any, np.dtype[np.uint8]]
Variant = dict[str, Any]

FLUID, SKIN, STEM, RIGHT_WHITE, LEFT_WHITE, WMH, TUMOUR, GREY = (
    131,
    168,
    220,
    227,
    228,
    150,
    176,
    22,
)
CORNERS = np.ones((3, 3, 3))
WMH_SIZE, TUMOUR_SIZE = "white matter hyperintensity", "brain tumor"


def small_head() -> Mask:
    """Return a cube of skin with a cube of right white matter in it, and air around."""
    labels = np.zeros((32, 30, 28), np.uint8)
    labels[3:29, 3:27, 3:25] = SKIN
    labels[6:26, 6:24, 6:22] = RIGHT_WHITE
    return labels


def test_a_clean_head_stays_and_the_input_is_not_changed(head: Variant) -> None:
    labels = small_head()
    labels[8:10, 8:10, 8:10] = STEM  # as small as an organ may be
    labels[15, 15, 15] = labels[20, 20, 20] = FLUID
    original = labels.copy()
    cleaned = clean(head, labels, ())
    assert cleaned.dtype == np.uint8 and (cleaned == original).all()
    labels[0, 0, 0] = SKIN
    original = labels.copy()
    assert (clean(head, labels, ()) != original).any()
    assert (labels == original).all()


@pytest.mark.parametrize("fill", [0, SKIN, STEM, TUMOUR])
@pytest.mark.parametrize("sides", [(1, 1, 1), (2, 1, 3), (7, 6, 5)])
def test_any_shape_is_accepted(head: Variant, sides: tuple[int, int, int], fill: int) -> None:
    cleaned = clean(head, np.full(sides, fill, np.uint8), (TUMOUR,))
    assert cleaned.shape == sides
    assert (cleaned == fill).all()


def test_only_the_largest_piece_of_all_labels_stays(head: Variant) -> None:
    labels = small_head()
    expected = labels.copy()
    labels[0:2, 0:2, 0:28] = FLUID
    labels[31, 29, 27] = STEM
    labels[2, 2, 2] = expected[2, 2, 2] = FLUID  # touches a corner of the head
    labels[0:2, 0:2, 0:4] = 0  # and would connect the first
    assert (clean(head, labels, ()) == expected).all()


def test_holes_take_the_nearest_label_and_notches_stay(head: Variant) -> None:
    labels = small_head()
    expected = labels.copy()
    labels[12:15, 12, 12] = 0
    labels[4:8, 15, 15] = 0  # across skin, which ends at 5, and white matter
    labels[3:5, 20, 20] = expected[3:5, 20, 20] = 0
    assert (clean(head, labels, ()) == expected).all()


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("side", [11, 15])
def test_the_nearest_label_may_be_on_any_side_of_a_hole(
    head: Variant, axis: int, side: int
) -> None:
    labels = small_head()
    labels[12:15, 12:15, 12:15] = 0
    labels.swapaxes(0, axis)[side, 12:15, 12:15] = SKIN
    cleaned = clean(head, labels, ()).swapaxes(0, axis)
    assert cleaned[12, 13, 13] == (SKIN if side == 11 else RIGHT_WHITE)
    assert cleaned[14, 13, 13] == (SKIN if side == 15 else RIGHT_WHITE)


def test_a_lesion_that_was_not_requested_becomes_its_organ(head: Variant) -> None:
    labels = small_head()
    labels[8:12, 8:12, 8:12], labels[16:20, 16:20, 16:20] = WMH, TUMOUR
    expected = labels.copy()
    assert (clean(head, labels, (WMH, TUMOUR)) == expected).all()
    expected[labels == TUMOUR] = GREY
    assert (clean(head, labels, (WMH,)) == expected).all()
    expected[labels == WMH] = RIGHT_WHITE
    assert (clean(head, labels, ()) == expected).all()


@pytest.mark.parametrize("name", ["tests/training/held_out_100001", "examples/brain_mask"])
def test_hyperintensities_of_both_hemispheres_become_the_white_matter_around(
    sized: Variant, name: str
) -> None:
    labels = np.asarray(nib.load(ROOT / f"{name}.nii.gz").dataobj).astype(np.uint8)
    white = np.isin(labels, (RIGHT_WHITE, LEFT_WHITE))
    nearest = ndimage.distance_transform_edt(~white, return_distances=False, return_indices=True)
    expected = labels[tuple(nearest)]
    for requested, volumes in (((), {}), ((WMH,), {WMH_SIZE: 0.1})):
        cleaned = clean(sized, labels, requested, volumes)
        healed = (labels == WMH) & np.isin(cleaned, (RIGHT_WHITE, LEFT_WHITE))
        assert {RIGHT_WHITE, LEFT_WHITE} <= set(np.unique(expected[healed]))
        assert (cleaned[healed] == expected[healed]).mean() > 0.98  # specks are absorbed


def test_the_organ_of_a_lesion_may_be_the_most_frequent_around_it(head: Variant) -> None:
    labels = np.where(small_head() == RIGHT_WHITE, np.uint8(LEFT_WHITE), small_head())
    labels[8:12, 8:12, 8:12] = WMH
    expected = np.where(labels == WMH, LEFT_WHITE, labels)
    neighbours = head | {"lesion_neighbours": {str(WMH): [RIGHT_WHITE, LEFT_WHITE]}}
    assert (clean(neighbours, labels, ()) == expected).all()


def test_one_piece_of_a_tumour_stays_and_all_of_the_hyperintensities(head: Variant) -> None:
    labels = small_head()
    labels[8:11, 8:11, 8:11], labels[14, 14, 14] = TUMOUR, TUMOUR
    labels[20:22, 20:22, 20:22] = TUMOUR
    labels[8, 20, 8] = labels[8, 20, 18] = WMH
    expected = labels.copy()
    expected[20:22, 20:22, 20:22] = GREY
    expected[14, 14, 14] = RIGHT_WHITE  # a speck of grey matter by then
    assert (clean(head, labels, (WMH, TUMOUR)) == expected).all()


def test_specks_of_organs_take_the_most_frequent_label_around_them(head: Variant) -> None:
    labels = small_head()
    expected = labels.copy()
    labels[10, 10, 10:17] = STEM  # seven voxels
    labels[5, 8, 8] = STEM  # in skin, one layer from the white matter
    expected[5, 8, 8] = SKIN
    labels[15, 10, 10:18] = expected[15, 10, 10:18] = STEM  # eight
    labels[20, 20, 20] = expected[20, 20, 20] = FLUID
    assert (clean(head, labels, ()) == expected).all()


def test_a_speck_on_the_surface_does_not_become_background(head: Variant) -> None:
    labels = small_head()
    labels[29, 10, 10] = STEM
    expected = labels.copy()
    expected[29, 10, 10] = SKIN
    assert (clean(head, labels, ()) == expected).all()


def test_specks_among_specks_take_the_label_around_all(head: Variant) -> None:
    labels = small_head()
    expected = labels.copy()
    organs = np.array([214, 215, 218, 219, 220, 221, 222], np.uint8)
    labels[10:15, 10:15, 10:15] = np.resize(organs, (5, 5, 5))
    labels[12, 12, 12] = 229
    for organ in (*organs, 229):
        _, count = ndimage.label(labels == organ, CORNERS)
        assert count > 1 or (labels == organ).sum() < 8
    assert (clean(head, labels, ()) == expected).all()


def test_specks_alone_stay(head: Variant) -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1, 1, 1:3] = [STEM, LEFT_WHITE]
    assert (clean(head, labels, ()) == labels).all()


def test_specks_are_removed_from_a_realistic_head(head: Variant) -> None:
    image = nib.load(ROOT / "examples" / "brain_mask.nii.gz")
    mask = np.asarray(image.dataobj).astype(np.uint8)
    truth = clean(head, mask, (WMH, TUMOUR))
    assert (truth == mask).mean() > 0.9999
    assert (clean(head, truth, (WMH, TUMOUR)) == truth).all()
    random = np.random.default_rng(0)
    organs = [label for label in range(214, 241) if str(label) in head["labels"]]
    noise = random.choice(np.array(organs, np.uint8), mask.shape)
    noisy = np.where(random.random(mask.shape) < 0.002, noise, mask)
    cleaned = clean(head, noisy, (WMH, TUMOUR))
    assert (noisy != mask).sum() > 1500
    assert (cleaned != truth).sum() < 0.2 * (noisy != mask).sum()
    assert ndimage.label(cleaned, CORNERS)[1] == 1
    for organ in [22, *organs]:
        pieces, _ = ndimage.label(cleaned == organ, CORNERS)
        assert np.bincount(pieces.ravel()).min() >= 8, organ


@pytest.fixture
def sized(head: Variant) -> Variant:
    """Return the variant with volumes of its lesions; a voxel is 0.008 ml."""
    whites = [RIGHT_WHITE, LEFT_WHITE]
    within = {WMH_SIZE: whites, TUMOUR_SIZE: [GREY, FLUID, *whites]}
    sizes = [
        entry | {"volume": [0.04, 30], "within": within[entry["name"]]}
        if "label" in entry
        else entry
        for entry in head["mask_generation"]["sizes"]
    ]
    return head | {"mask_generation": head["mask_generation"] | {"sizes": sizes}}


@pytest.mark.parametrize("voxels", [5, 27, 100, 1000])
def test_a_tumour_gets_its_volume_in_one_piece_like_a_ball(sized: Variant, voxels: int) -> None:
    labels = small_head()
    labels[12:15, 12:15, 12:15], labels[8, 8, 8] = TUMOUR, TUMOUR
    cleaned = clean(sized, labels, (TUMOUR,), {TUMOUR_SIZE: voxels * 0.008})
    part = cleaned == TUMOUR
    assert part.sum() == voxels and cleaned[13, 13, 13] == TUMOUR
    assert ndimage.label(part, CORNERS)[1] == 1
    sides = [np.ptp(axis) + 1 for axis in np.nonzero(part)]
    assert max(sides) <= 1.35 * (6 * voxels / np.pi) ** (1 / 3) + 1
    if voxels < 27:
        assert (cleaned[labels == TUMOUR] == GREY).sum() > 0


def test_a_tumour_of_two_lobes_keeps_its_volume(sized: Variant) -> None:
    labels = small_head()
    labels[7:13, 8:22, 8:20] = labels[19:25, 8:22, 8:20] = labels[13:19, 15, 14] = TUMOUR
    voxels = (labels == TUMOUR).sum() // 2
    part = clean(sized, labels, (TUMOUR,), {TUMOUR_SIZE: voxels * 0.008}) == TUMOUR
    assert part.sum() == voxels and ndimage.label(part, CORNERS)[1] == 1
    assert (labels[part] == TUMOUR).mean() > 0.9


def test_a_lesion_grows_only_into_its_labels(sized: Variant) -> None:
    labels = small_head()
    labels[16:26, 6:24, 6:22] = FLUID
    labels[13:15, 13:15, 13:15] = WMH
    cleaned = clean(sized, labels, (WMH,), {WMH_SIZE: 600 * 0.008})
    assert (cleaned == WMH).sum() == 600
    assert (cleaned[labels == FLUID] == FLUID).all() and (cleaned[labels == SKIN] == SKIN).all()
    everything = clean(sized, labels, (WMH,), {WMH_SIZE: 30.0})
    assert (everything == WMH).sum() == np.isin(labels, (WMH, RIGHT_WHITE)).sum()


def test_all_pieces_of_a_lesion_that_is_no_tumour_shrink(sized: Variant) -> None:
    labels = small_head()
    labels[8:13, 8:13, 8:13] = labels[18:23, 15:20, 12:17] = WMH
    cleaned = clean(sized, labels, (WMH,), {WMH_SIZE: 54 * 0.008})
    assert (cleaned[9:12, 9:12, 9:12] == WMH).all() and (cleaned[19:22, 16:19, 13:16] == WMH).all()
    assert (cleaned == WMH).sum() == 54
    assert (cleaned[8, 8:13, 8:13] == RIGHT_WHITE).all()


@pytest.mark.parametrize("voxels", [1, 100, 2000])
def test_a_missing_lesion_is_planted_where_the_seed_says(sized: Variant, voxels: int) -> None:
    labels = small_head()
    centres = set()
    for seed in range(4):
        part = clean(sized, labels, (TUMOUR,), {TUMOUR_SIZE: voxels * 0.008}, seed) == TUMOUR
        assert part.sum() == voxels and (labels[part] == RIGHT_WHITE).all()
        assert ndimage.label(part)[1] == 1
        sides = [np.ptp(axis) + 1 for axis in np.nonzero(part)]
        assert max(sides) <= 1.35 * (6 * voxels / np.pi) ** (1 / 3) + 1  # a ball
        again = clean(sized, labels, (TUMOUR,), {TUMOUR_SIZE: voxels * 0.008}, seed)
        assert ((again == TUMOUR) == part).all()
        centres.add(ndimage.center_of_mass(part))
    assert len(centres) == 4
    assert (clean(sized, labels, (TUMOUR,)) == labels).all()


def test_a_missing_lesion_fills_its_labels_where_they_are_smaller(sized: Variant) -> None:
    labels = np.where(small_head() == RIGHT_WHITE, np.uint8(SKIN), small_head())
    labels[10:13, 10:13, 10:13] = LEFT_WHITE
    cleaned = clean(sized, labels, (WMH,), {WMH_SIZE: 1.0})
    assert ((cleaned == WMH) == (labels == LEFT_WHITE)).all()
    labels[labels == LEFT_WHITE] = SKIN
    assert (clean(sized, labels, (WMH,), {WMH_SIZE: 1.0}) == labels).all()


VENTRICLES = (214, 215, 233, 234)
BESIDE = (GREY, STEM, RIGHT_WHITE, LEFT_WHITE, 239, 240)
CEREBELLUM = (223, 224, 225, 226)


@pytest.fixture
def ventricular(head: Variant) -> Variant:
    """Return the variant with volumes of its ventricles."""
    entry = {"labels": list(VENTRICLES), "volume": [5, 50], "within": [*BESIDE, *CEREBELLUM]}
    first, *others = head["mask_generation"]["sizes"]
    return head | {"mask_generation": head["mask_generation"] | {"sizes": [first | entry, *others]}}


@pytest.mark.parametrize("name", ["tests/training/held_out_100001", "examples/brain_mask"])
@pytest.mark.parametrize("factor", [0.3, 0.9, 1.0, 1.1, 2.0])
def test_ventricles_get_their_volume_each_by_the_same_factor(
    ventricular: Variant, name: str, factor: float
) -> None:
    labels = np.asarray(nib.load(ROOT / f"{name}.nii.gz").dataobj).astype(np.uint8)
    before = clean(ventricular, labels, (WMH, TUMOUR))
    voxels = np.isin(before, VENTRICLES).sum()
    volumes = {"ventricles": factor * voxels * 0.008}
    after = clean(ventricular, before, (WMH, TUMOUR), volumes)
    for label in VENTRICLES:  # specks of them, and of labels beside them, are absorbed
        assert (after == label).sum() == pytest.approx(factor * (before == label).sum(), abs=12)
    changed = after != before
    allowed = [*VENTRICLES, *BESIDE, *CEREBELLUM]
    assert np.count_nonzero(~np.isin([before[changed], after[changed]], allowed)) < 8  # of specks
    if factor < 1:
        assert np.isin(before[np.isin(after, VENTRICLES)], VENTRICLES).mean() > 0.99
    else:
        assert np.isin(after[np.isin(before, VENTRICLES)], VENTRICLES).mean() > 0.99


@pytest.mark.parametrize("voxels", [100, 1000, 3000])
def test_ventricles_change_on_all_sides_alike(ventricular: Variant, voxels: int) -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[2:38, 2:38, 2:38] = SKIN
    labels[4:36, 4:36, 4:36] = RIGHT_WHITE
    labels[15:25, 15:25, 15:25] = 214
    part = clean(ventricular, labels, (), {"ventricles": voxels * 0.008}) == 214
    assert part.sum() == voxels
    assert np.abs(np.array(ndimage.center_of_mass(part)) - 19.5).max() < 0.25
    assert ((labels == 214) & part).sum() == min(voxels, 1000)


def test_missing_ventricles_stay_missing(ventricular: Variant) -> None:
    labels = small_head()
    assert (clean(ventricular, labels, (), {"ventricles": 1.0}) == labels).all()


def test_ventricles_without_labels_around_them_do_not_shrink(ventricular: Variant) -> None:
    labels = np.where(small_head() == RIGHT_WHITE, np.uint8(SKIN), small_head())
    labels[10:14, 10:14, 10:14] = 214
    assert (clean(ventricular, labels, (), {"ventricles": 0.1}) == labels).all()
    assert (clean(ventricular, labels, (), {"ventricles": 1.0}) == labels).all()
