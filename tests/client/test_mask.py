"""Label masks: every grid in, the same grid out."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from maisi_client import InvalidRequest, MaskError
from maisi_client._grid import (
    parse_spacing,
    resample_linear,
    resample_nearest,
    resample_within,
    restore,
    same_grid,
)
from maisi_client._mask import label_image, load_greys, load_mask

from tests.client.affines import oblique

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "PSR", "ILA", "SPL"])
@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_axes_point_right_anterior_superior(codes: str, degrees: float) -> None:
    sizes, shape = (1.0, 2.0, 3.0), (9, 10, 11)
    data = np.zeros(shape, np.uint8)
    data[2, 3, 4] = 150
    mask = load_mask(nib.Nifti1Image(data, oblique(codes, sizes, degrees)))

    axes = ["LR", "PA", "IS"]
    for axis, ends in enumerate(axes):
        stored = next(i for i, code in enumerate(codes) if code in ends)
        at = (2, 3, 4)[stored]
        expected = at if codes[stored] == ends[1] else shape[stored] - 1 - at
        assert np.argwhere(mask.values == 150)[0][axis] == expected
        assert mask.spacing[axis] == pytest.approx(sizes[stored])
        assert mask.values.shape[axis] == shape[stored]


@pytest.mark.parametrize("codes", ["RAS", "LAS", "PSR", "ILA"])
@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_volume_comes_back_to_its_own_space(tmp_path: Path, codes: str, degrees: float) -> None:
    data = RNG.integers(0, 256, (9, 10, 11)).astype(np.uint8)
    image = nib.Nifti1Image(data, oblique(codes, (1.0, 2.0, 3.0), degrees))
    image.header.set_qform(image.affine, 1)
    nib.save(image, tmp_path / "mask.nii.gz")
    mask = load_mask(tmp_path / "mask.nii.gz")

    back = restore(mask.values.astype(np.int16), mask.spacing, mask)
    nib.save(back, tmp_path / "back.nii.gz")
    back, image = nib.load(tmp_path / "back.nii.gz"), nib.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asanyarray(back.dataobj), data)
    assert np.array_equal(back.affine, image.affine)
    for form in ("get_qform", "get_sform"):
        theirs, ours = (getattr(i.header, form)(coded=True) for i in (image, back))
        assert theirs[1] == ours[1] and np.array_equal(theirs[0], ours[0])
    assert back.get_data_dtype() == np.int16


def test_resampling_keeps_the_centre_and_the_labels() -> None:
    labels = np.zeros((40, 30, 20), np.uint8)
    labels[10:30, 10:20, 5:15] = 22
    coarse = resample_nearest(labels, (1, 1, 1), (2, 2, 2))
    assert coarse.shape == (20, 15, 10)
    assert set(np.unique(coarse)) == {0, 22}
    fine, rough = (np.argwhere(grid).mean(axis=0) + 0.5 for grid in (labels, coarse))
    assert fine == pytest.approx(2 * rough, abs=1)  # half a coarse voxel

    same = resample_nearest(labels, (1, 1, 1), (1, 1, 1))
    assert np.array_equal(same, labels)


def test_linear_resampling_is_exact_on_a_plane() -> None:
    x, y, z = np.meshgrid(*map(np.arange, (20, 15, 10)), indexing="ij")
    plane = (40 * x + 20 * y + 80 * z).astype(np.int16)
    fine = resample_linear(plane, (2, 2, 2), (40, 30, 20), (1, 1, 1))
    x, y, z = (np.clip((np.arange(n) - 0.5) / 2, 0, n / 2 - 1) for n in (40, 30, 20))
    expected = 40 * x[:, None, None] + 20 * y[:, None] + 80 * z
    assert np.abs(fine - expected).max() <= 0.5


def test_a_volume_at_another_spacing_keeps_background_empty() -> None:
    data = np.zeros((40, 30, 20), np.uint8)
    data[11:29, 9:20, 5:15] = 22
    mask = load_mask(nib.Nifti1Image(data, oblique("PSR", (1.0, 1.5, 1.0))))
    coarse = resample_nearest(mask.values, mask.spacing, (2.0, 2.0, 2.0))
    volume = np.where(coarse > 0, 500, -1000).astype(np.int16)
    fine, labels = resample_within(volume, coarse, (2.0, 2.0, 2.0), mask.values, mask.spacing)
    back = np.asanyarray(restore(fine, mask.spacing, mask).dataobj)
    assert np.array_equal(labels, mask.values)
    assert (back == np.where(data > 0, 500, -1000)).all()  # no rim between the two


def test_labels_that_a_coarser_grid_loses_have_no_tissue() -> None:
    labels = np.zeros((24, 24, 24), np.uint8)
    labels[4:12, 4:12, 4:12] = 22
    labels[20, 20, 20] = 23  # a voxel far from all else
    coarse = resample_nearest(labels, (1, 1, 1), (3, 3, 3))
    assert 23 not in coarse
    volume = np.where(coarse > 0, 500, 0).astype(np.int16)
    fine, fine_labels = resample_within(volume, coarse, (3, 3, 3), labels, (1, 1, 1))
    assert fine_labels[20, 20, 20] == 0 and (fine_labels == np.where(labels == 22, 22, 0)).all()
    assert (fine == np.where(fine_labels > 0, 500, 0)).all()


def test_whole_floats_and_a_trailing_axis_are_labels(tmp_path: Path) -> None:
    data = RNG.integers(0, 241, (6, 7, 8)).astype(np.float64)
    nib.save(nib.Nifti1Image(data[..., None], np.eye(4)), tmp_path / "mask.nii")
    mask = load_mask(str(tmp_path / "mask.nii"))
    assert mask.values.dtype == np.uint8
    assert np.array_equal(mask.values, data)
    assert restore(mask.values.astype(np.int16), mask.spacing, mask).shape == (6, 7, 8)


def test_true_and_false_are_labels() -> None:
    class Image(nib.spatialimages.SpatialImage):
        """An image of any type, also one that files do not have."""

    data = RNG.random((6, 7, 8)) < 0.5
    header = nib.spatialimages.SpatialHeader(np.uint8, data.shape, (1, 1, 1))
    assert np.array_equal(load_mask(Image(data, np.eye(4), header)).values, data)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_labels_may_be_off_by_rounding(tmp_path: Path, kind: Any) -> None:
    labels = RNG.integers(0, 241, (6, 7, 8))
    off = (labels + RNG.uniform(-0.009, 0.009, labels.shape)).astype(kind)
    nib.save(nib.Nifti1Image(off, np.eye(4)), tmp_path / "mask.nii.gz")
    assert np.array_equal(load_mask(tmp_path / "mask.nii.gz").values, labels)
    on_disk = label_image(tmp_path / "mask.nii.gz")
    assert on_disk.get_data_dtype() == np.uint8
    assert np.array_equal(np.asanyarray(on_disk.dataobj), labels)


def test_labels_stored_as_scaled_integers(tmp_path: Path) -> None:
    """Then 30 is read as 29.9992."""
    labels = RNG.integers(0, 241, (6, 7, 8))
    image = nib.Nifti1Image(labels.astype(np.float64), np.eye(4))
    image.header.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "mask.nii.gz")
    assert not np.array_equal(nib.load(tmp_path / "mask.nii.gz").get_fdata(), labels)
    assert np.array_equal(load_mask(tmp_path / "mask.nii.gz").values, labels)


@pytest.mark.parametrize(
    ("value", "digits"),
    [
        (227.0101, r"227\.0101"),
        (np.float32(3.25), r"3\.25"),
        (-0.02, r"-0\.02"),
        (1e20, "1" + "0" * 20),
    ],
)
def test_what_is_between_labels_is_said_with_its_digits(value: Any, digits: str) -> None:
    data = np.zeros((4, 4, 4), np.asarray(value).dtype)
    data[1, 2, 3] = value
    with pytest.raises(MaskError, match=rf"holds {digits} at voxel \[1, 2, 3\]; labels are whole"):
        load_mask(nib.Nifti1Image(data, np.eye(4)))


@pytest.mark.parametrize("form", ["sform", "qform", "neither"])
@pytest.mark.parametrize(("unit", "mm"), [("meter", 1e3), ("micron", 1e-3), ("unknown", 1)])
def test_lengths_are_of_the_units_of_the_header(
    tmp_path: Path, form: str, unit: str, mm: float
) -> None:
    affine = oblique("LPS", (1.5, 2.0, 2.5), 0 if form == "neither" else 20)
    scaled = np.diag([1 / mm] * 3 + [1]) @ affine
    image = nib.Nifti1Image(RNG.integers(0, 9, (5, 6, 7)).astype(np.uint8), scaled)
    image.header.set_sform(scaled, 2 if form == "sform" else 0)
    image.header.set_qform(scaled, 1 if form == "qform" else 0)
    image.header.set_xyzt_units(unit, "sec")
    image.to_filename(tmp_path / "mask.nii.gz")
    for picture in (tmp_path / "mask.nii.gz", nib.load(tmp_path / "mask.nii.gz")):
        mask = load_mask(picture)
        assert mask.spacing == pytest.approx((1.5, 2.0, 2.5))
        nib.save(restore(mask.values, mask.spacing, mask), tmp_path / "back.nii.gz")
        ours, theirs = (sitk.ReadImage(str(tmp_path / f"{n}.nii.gz")) for n in ("back", "mask"))
        for of in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(ours, of)() == pytest.approx(getattr(theirs, of)(), abs=1e-4), of
    assert nib.load(tmp_path / "mask.nii.gz").header.get_xyzt_units()[0] == unit  # as it was


@pytest.mark.parametrize("length", [0.0, -2.0, np.nan, np.inf])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_an_unknown_spacing_is_refused(
    tmp_path: Path, length: float, suffix: str, kind: Any
) -> None:
    """Nibabel would read 1 mm."""
    path = tmp_path / f"mask{suffix}"
    content = kind(np.zeros((4, 5, 6), np.uint8), np.eye(4)).to_bytes()
    end = kind.header_class.sizeof_hdr
    header = kind.header_class(content[:end])
    header["sform_code"], header["pixdim"][2] = 0, length
    content = header.binaryblock + content[end:]
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    with pytest.raises(
        MaskError, match=r"its pixdim, the spacing, is \[1\.0, .*\]; lengths above 0"
    ):
        load_mask(path)
    with pytest.raises(InvalidRequest, match=rf"source '{path}'.*its pixdim"):
        load_greys(path)
    if np.isfinite(length):  # and of an image that nibabel has read
        with pytest.raises(MaskError, match="its pixdim, the spacing"):
            load_mask(nib.load(path))


def test_a_spacing_that_the_sform_has_may_lack_in_pixdim(tmp_path: Path) -> None:
    path = tmp_path / "mask.nii"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.diag([2.0, 3, 4, 1])), path)
    content = bytearray(path.read_bytes())
    content[80:92] = bytes(12)  # pixdim[1:4]
    path.write_bytes(content)
    assert load_mask(path).spacing == (2.0, 3.0, 4.0)


def moved(affine: Any, shift: Any = (0, 0, 0), degrees: float = 0, stretch: float = 1) -> Any:
    turn = np.deg2rad(degrees)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    other = affine @ rotation @ np.diag([stretch, stretch, stretch, 1])
    other[:3, 3] += shift
    return other


@pytest.mark.parametrize(
    ("sizes", "change", "same"),
    [
        ((2.0, 2.0, 2.0), {}, True),
        ((2.0, 2.0, 2.0), {"shift": (0.02, 0, 0)}, True),
        ((2.0, 2.0, 2.0), {"shift": (0.05, 0.05, 0.05)}, True),
        ((2.0, 2.0, 2.0), {"shift": (0, 0.2, 0)}, False),
        ((0.3, 0.3, 0.3), {"shift": (0, 0, 0.05)}, False),  # a sixth of a voxel
        ((0.9766, 0.9766, 3.0), {"degrees": 0.28}, False),
        ((0.9766, 0.9766, 3.0), {"degrees": 0.005}, True),
        ((0.9766, 0.9766, 3.0), {"stretch": 0.98 / 0.9766}, False),
        ((0.9765625, 0.9765625, 3.0), {"stretch": 0.9766 / 0.9765625}, True),
        ((2.0, 2.0, 2.0), {"shift": (2.0, 0, 0)}, False),
    ],
)
@pytest.mark.parametrize("codes", ["RAS", "PSR"])
def test_same_grid_is_a_distance_of_corners(
    sizes: tuple[float, float, float], change: Any, same: bool, codes: str
) -> None:
    values = np.zeros((192, 224, 48), np.uint8)
    affine = oblique(codes, sizes)
    one, other = (load_mask(nib.Nifti1Image(values, a)) for a in (affine, moved(affine, **change)))
    assert same_grid(one, other) == same_grid(other, one) == same


@pytest.mark.parametrize("degrees", [0.0, 20.0, 45.0, -135.0])
@pytest.mark.parametrize("codes", ["LAS", "LPS", "PSR", "ILA"])
def test_the_same_grid_may_be_stored_in_another_order(codes: str, degrees: float) -> None:
    image = nib.Nifti1Image(
        RNG.integers(0, 9, (9, 10, 11)).astype(np.uint8), oblique("RAS", (1, 2, 3), degrees)
    )
    reoriented = image.as_reoriented(
        nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
        )
    )
    one, other = load_mask(image), load_mask(reoriented)
    assert same_grid(one, other)
    assert np.array_equal(one.values, other.values)
    assert np.allclose(one.affine, other.affine)


@pytest.mark.parametrize(
    ("data", "affine", "sentence"),
    [
        (np.zeros((8, 8), np.uint8), np.eye(4), r"shape \[8, 8\]; three"),
        (np.zeros((8, 8, 8, 2), np.uint8), np.eye(4), r"shape \[8, 8, 8, 2\]"),
        (np.full((4, 4, 4), 1.5, np.float32), np.eye(4), r"1\.5 at voxel \[0, 0, 0\]"),
        (np.full((4, 4, 4), np.nan, np.float32), np.eye(4), "nan at voxel"),
        (np.full((4, 4, 4), 256, np.int16), np.eye(4), "256 at voxel"),
        (np.full((4, 4, 4), -1, np.int16), np.eye(4), "-1 at voxel"),
        (np.full((4, 4, 4), 1j, np.complex64), np.eye(4), "data type complex64"),
    ],
)
def test_what_is_no_label_map_is_refused(data: Any, affine: Any, sentence: str) -> None:
    with pytest.raises(MaskError, match=sentence):
        load_mask(nib.Nifti1Image(data, affine))


@pytest.mark.parametrize("size", [0.0, np.nan, np.inf])
def test_a_grid_without_a_place_in_space_is_refused(tmp_path: Path, size: float) -> None:
    path = tmp_path / "mask.nii"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), path)
    content = bytearray(path.read_bytes())
    content[300:304] = np.float32(size).tobytes()  # srow_y[1]
    path.write_bytes(content)
    with pytest.raises(MaskError, match="affine that is not finite or drops an axis"):
        load_mask(path)
    with pytest.raises(MaskError, match="affine that is not finite or drops an axis"):
        load_mask(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), None))


def test_colour_data_is_refused(tmp_path: Path) -> None:
    colours = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(MaskError, match="data type"):
        load_mask(nib.Nifti1Image(colours, np.eye(4)))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mask{suffix}"
    nib.save(nib.Nifti1Image(RNG.integers(0, 240, (32, 32, 32), np.uint8), np.eye(4)), path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(MaskError, match=f"mask '{path}' cannot be read to its end: .+"):
        load_mask(path)


@pytest.mark.parametrize(
    ("at", "content"),
    [
        (42, b"\xff\xff"),  # dim[1] is -1
        (108, b"\x00\x00\x80\x5f"),  # vox_offset is 2^64
        (70, b"\xff\xff"),  # datatype
    ],
)
def test_a_header_that_cannot_be_is_refused(tmp_path: Path, at: int, content: bytes) -> None:
    path = tmp_path / "mask.nii"
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), path)
    data = bytearray(path.read_bytes())
    data[at : at + len(content)] = content
    path.write_bytes(data)
    with pytest.raises(MaskError, match=r"^mask '"):
        load_mask(path)


@pytest.mark.parametrize("content", [b"", b"no image at all", bytes(range(256)) * 4096])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".txt"])
def test_garbage_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"mask{suffix}"
    path.write_bytes(content)
    with pytest.raises(MaskError, match="is not an image that can be read"):
        load_mask(path)


def test_missing_file_and_wrong_type_are_refused(tmp_path: Path) -> None:
    wrong: Any = np.zeros((4, 4, 4))
    with pytest.raises(MaskError, match=r"mask 'no\.nii' does not exist"):
        load_mask("no.nii")
    with pytest.raises(MaskError, match="does not exist or is not a file"):
        load_mask(tmp_path)
    with pytest.raises(MaskError, match="of type ndarray"):
        load_mask(wrong)


def test_spacing() -> None:
    assert parse_spacing(2) == (2.0, 2.0, 2.0)
    assert parse_spacing([1, 2, 3]) == (1.0, 2.0, 3.0)
    for wrong in (0, -1, [1, 2], float("nan"), [1, 1, float("inf")], "thick", None):
        with pytest.raises(InvalidRequest, match="spacing is"):
            parse_spacing(wrong)
    with pytest.raises(InvalidRequest, match="more than can be sent"):
        resample_nearest(np.zeros((9, 9, 9), np.uint8), (1, 1, 1), (1e-3, 1e-3, 1e-4))
