"""The same head has the same features on any grid, orientation and scale of greys."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from maisi_client import InvalidRequest
from maisi_client._assess import features
from maisi_client._assess.harmonising import (
    Grid,
    Harmony,
    coarse,
    common,
    load,
    modality_of,
    read_grid,
    windowed,
)
from scipy import ndimage

from tests.client.assess.phantoms import SHAPE, SPACING, Greys, save, subject
from tests.client.assess.sets import HARMONY


def described(path: Path) -> Greys:
    volume, _, _ = load(path, HARMONY)
    planes = features.slices(volume, HARMONY.foreground)
    return np.stack([[features.describe(one, HARMONY.foreground) for one in p] for p in planes])


def test_of_several_channels_of_the_decathlon_the_first_is_read(tmp_path: Path) -> None:
    image, _ = subject(1)
    save(image, tmp_path / "a.nii.gz")
    plain = nib.load(tmp_path / "a.nii.gz")
    both = np.stack([np.asarray(plain.dataobj), np.zeros(plain.shape, np.int16)], -1)
    for folder in ("imagesTr", "scans"):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(both, plain.affine), tmp_path / folder / "a.nii.gz")
    assert read_grid(tmp_path / "imagesTr" / "a.nii.gz") == read_grid(tmp_path / "a.nii.gz")
    first, whole = (load(tmp_path / p, HARMONY)[1] for p in ("imagesTr/a.nii.gz", "a.nii.gz"))
    assert np.array_equal(first, whole)
    with pytest.raises(InvalidRequest, match="three dimensions are expected"):
        read_grid(tmp_path / "scans" / "a.nii.gz")


def test_axes_and_units_do_not_matter(tmp_path: Path) -> None:
    image, _ = subject(1)
    save(image, tmp_path / "a.nii.gz")
    plain = nib.load(tmp_path / "a.nii.gz")
    turned = plain.as_reoriented(nib.orientations.axcodes2ornt(("S", "L", "P")))
    scaled = nib.Nifti1Image(3.7 * np.asarray(turned.dataobj, np.float32), turned.affine)
    nib.save(scaled, tmp_path / "b.nii.gz")
    np.testing.assert_allclose(
        described(tmp_path / "a.nii.gz"), described(tmp_path / "b.nii.gz"), rtol=1e-3, atol=1e-4
    )
    assert read_grid(tmp_path / "b.nii.gz") == read_grid(tmp_path / "a.nii.gz")


def test_a_finer_grid_is_blurred_to_the_common_one(tmp_path: Path) -> None:
    image, _ = subject(1)
    image = 0.5 + 0.1 * image
    fine = ndimage.zoom(image, 3, order=1, grid_mode=True, mode="nearest")
    noise = np.random.default_rng(0).normal(0, 0.1, fine.shape)
    save(image, tmp_path / "a.nii.gz")
    save((fine + noise).astype(np.float32), tmp_path / "b.nii.gz", SPACING / 3)
    one, other = (load(tmp_path / f"{name}.nii.gz", HARMONY)[0] for name in "ab")
    assert one.shape == other.shape == SHAPE
    change = (one - one.mean()) / one.max() - (other - other.mean()) / other.max()
    assert change.std() < 0.04  # of the noise, a voxel that is only sampled would keep all


def test_the_common_spacing_is_the_coarsest_median_along_each_axis() -> None:
    thin = [Grid((100, 100, 40), (1.0, 1.0, 5.0))] * 3
    other = [Grid((64, 64, 64), (2.0, 2.0, 2.0))] * 2 + [Grid((9, 9, 9), (9.0, 9.0, 9.0))]
    assert common("mr", [thin, other]) == Harmony("mr", (2.0, 2.0, 5.0), 200.0)


def test_ct_has_a_fixed_window_and_mr_its_own() -> None:
    hounsfield = np.array([-1024, -1000, 0, 1000, 3000], np.float32)
    np.testing.assert_allclose(windowed(hounsfield, "ct"), [0, 0, 0.5, 1, 1])
    grey = np.linspace(0, 500, 1001, dtype=np.float32)
    assert windowed(grey, "mr")[500] == pytest.approx(250 / 497.5, abs=1e-3)
    assert (modality_of(hounsfield), modality_of(grey)) == ("ct", "mr")


def test_the_coarse_volume_is_around_the_middle_of_the_foreground() -> None:
    volume = np.zeros((40, 40, 40), np.float32)
    volume[4:14, 20:30, 25:35] = 1
    small = coarse(volume, Harmony("mr", (2.0, 2.0, 2.0), 96.0))
    assert small.shape == (48, 48, 48)
    assert ndimage.center_of_mass(small) == pytest.approx((23.5, 23.5, 23.5), abs=0.1)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.full((9, 9, 9), 3, np.int16), "is empty: every voxel is 3"),
        (np.full((9, 9), 3, np.int16), "three dimensions are expected"),
        (np.arange(729, dtype=np.float32).reshape(9, 9, 9) - 600, "is CT by its values; MR"),
        (np.full((9, 9, 9), np.nan, np.float32), "holds NaN"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    tmp_path: Path, values: np.ndarray, sentence: str
) -> None:
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    with pytest.raises(InvalidRequest, match=sentence):
        load(path, HARMONY)
