"""The picture: planes the right way up, true to scale, in the right window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from maisi_client import InvalidRequest, preview
from maisi_client._colours import rgb
from numpy.typing import NDArray

Image = pytest.importorskip("PIL.Image")
GREY, LESION = (0xD9, 0x88, 0x80), (0xFF, 0x4D, 0x2E)


def head(codes: str = "RAS", sizes: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Any:
    """Return a box of brain, a lesion in its right, front, upper part; stored along `codes`."""
    shape = [round(n / s) for n, s in zip((60, 80, 50), sizes, strict=True)]
    data = np.zeros(shape, np.uint8)
    i, j, k = (np.arange(n) / n for n in shape)
    inside = [(a > 0.1) & (a < 0.9) for a in (i, j, k)]
    data[np.ix_(*inside)] = 22
    data[np.ix_((i > 0.3) & inside[0], (j > 0.3) & inside[1], (k > 0.3) & inside[2])] = 150
    image = nib.Nifti1Image(data, np.diag([*sizes, 1.0]))
    to = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes)
    )
    return image.as_reoriented(to)


def draw(path: Path, mask: Any, volumes: Any = (), tile: int = 160) -> NDArray[np.uint8]:
    preview(mask, volumes, path, tile=tile)
    return np.asarray(Image.open(path).convert("RGB"))


def where(page: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = (page == colour).all(axis=-1)
    return same


def test_radiological_view_of_the_axial_plane(tmp_path: Path) -> None:
    page = draw(tmp_path / "p.png", head())
    axial = page[40:200]  # the title is 40 pixels high, the axial plane is the first row
    brain, lesion = where(axial, GREY) | where(axial, LESION), where(axial, LESION)
    (rows, columns), (lesion_rows, lesion_columns) = np.nonzero(brain), np.nonzero(lesion)
    assert lesion_columns.mean() < columns.mean()  # the patient's right is on the left
    assert lesion_rows.mean() < rows.mean()  # anterior is up


def test_orientation_of_the_file_does_not_matter(tmp_path: Path) -> None:
    pages = [draw(tmp_path / f"{codes}.png", head(codes)) for codes in ("RAS", "LPS", "PIR")]
    assert all(np.array_equal(pages[0], page) for page in pages)


def test_aspect_follows_the_spacing(tmp_path: Path) -> None:
    cubic = where(draw(tmp_path / "a.png", head()), GREY)
    thick = where(draw(tmp_path / "b.png", head(sizes=(1.0, 1.0, 5.0))), GREY)
    ratios = []
    for page in (cubic, thick):
        rows, columns = np.nonzero(page[40:])
        ratios.append(np.ptp(rows) / np.ptp(columns))
    assert ratios[1] == pytest.approx(ratios[0], rel=0.1)


def test_the_planes_show_a_tumour_before_other_lesions(tmp_path: Path) -> None:
    mask = head()
    data = np.asanyarray(mask.dataobj).copy()
    data[data == 150] = 22
    data[20:40, 20:60, 30:40] = 150
    data[8:11, 10:13, 40:43] = 176
    page = draw(tmp_path / "p.png", nib.Nifti1Image(data, mask.affine))
    rows = where(page, rgb(176)).any(axis=1).astype(int)
    assert (np.diff(rows) == 1).sum() == 3  # in each of the three planes
    data[data == 176] = 22
    assert where(draw(tmp_path / "p.png", nib.Nifti1Image(data, mask.affine)), LESION).any()


def test_a_column_for_each_volume(tmp_path: Path) -> None:
    mask = head()
    data = (np.asanyarray(mask.dataobj) > 0) * np.int16(700)
    volume = nib.Nifti1Image(data, mask.affine)
    one = draw(tmp_path / "1.png", mask, [("T1", volume)], tile=400)
    three = draw(tmp_path / "3.png", mask, [(t, volume) for t in ("T1", "T2", "FLAIR")], tile=400)
    alone = draw(tmp_path / "0.png", None, [("T1", volume)], tile=400)
    assert three.shape[1] - one.shape[1] == 2 * (one.shape[1] - alone.shape[1]) > 2 * 400
    greys = one[40:440, 430:830]
    assert (greys > 230).mean() > 0.4  # the brain's brightest is near white


def test_odd_input_is_refused(tmp_path: Path) -> None:
    other = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    with pytest.raises(InvalidRequest, match="'T1' is on another grid than the mask"):
        preview(head(), [("T1", other)], tmp_path / "p.png")
    with pytest.raises(InvalidRequest, match="nothing"):
        preview(None, [], tmp_path / "p.png")
    with pytest.raises(InvalidRequest, match=r"volume 'no\.nii' does not exist"):
        preview(head(), [("T1", "no.nii")], tmp_path / "p.png")
    assert list(tmp_path.iterdir()) == []


def test_a_mask_of_one_slice_gives_a_picture(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((512, 512, 1), np.uint8), np.diag([1.5, 1.5, 1, 1]))
    assert draw(tmp_path / "thin.png", image).size > 0


def test_an_empty_mask_still_gives_a_picture(tmp_path: Path) -> None:
    empty = nib.Nifti1Image(np.zeros((20, 20, 20), np.uint8), np.eye(4))
    assert draw(tmp_path / "p.png", empty).size > 0


def test_a_picture_replaces_nothing_that_it_shows(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((8, 8, 8), np.int16), np.eye(4))
    image.to_filename(tmp_path / "a.nii.gz")
    before = (tmp_path / "a.nii.gz").read_bytes()
    for picture in (tmp_path / "a.nii.gz", nib.load(tmp_path / "a.nii.gz")):
        with pytest.raises(InvalidRequest, match="must not replace an input"):
            preview(picture, [], tmp_path / "a.nii.gz")
        with pytest.raises(InvalidRequest, match="must not replace an input"):
            preview(None, [("x", picture)], tmp_path / "a.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == before
