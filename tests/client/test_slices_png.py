"""A volume shows its three middle slices in a notebook."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from maisi_client import Volume
from nibabel import orientations
from numpy.typing import NDArray
from PIL import Image

SHAPE = (12, 8, 6)  # of the RAS+ volume, whose voxels are 1 x 1 x 2 mm


def volume(axes: str = "RAS", low: int = 0) -> Volume:
    """Return a volume of 600 with a voxel of 1000 at the left front top of each middle slice."""
    values = np.full(SHAPE, 600, np.int16)
    values[:2] = low
    for point in ((-1, -1, SHAPE[2] // 2), (-1, SHAPE[1] // 2, -1), (SHAPE[0] // 2, -1, -1)):
        values[point] = 1000
    image = nib.Nifti1Image(values, np.diag([1.0, 1, 2, 1]))
    change = orientations.ornt_transform(
        orientations.io_orientation(image.affine), orientations.axcodes2ornt(axes)
    )
    return Volume(image.as_reoriented(change), {})


def pixels(shown: Volume) -> NDArray[np.uint8]:
    """Return the pixels that Pillow reads, [row, column]."""
    file = shown._repr_png_()
    assert file is not None
    picture = Image.open(io.BytesIO(file))
    picture.verify()  # the checksums of all chunks
    picture = Image.open(io.BytesIO(file))
    assert (picture.mode, picture.info["Description"]) == ("L", "SYNTHETIC")
    return np.asarray(picture)


def test_three_middle_slices_are_side_by_side_in_square_pixels() -> None:
    page = pixels(volume())
    assert page.shape == (12, 12 + 3 + 12 + 3 + 8)
    axial, coronal, sagittal = page[2:10, :12], page[:, 15:27], page[:, 30:]
    assert not page[[0, 1, 10, 11], :12].any() and not page[:, [12, 13, 14, 27, 28, 29]].any()
    # The patient's right, of grey level 0, is on the left. A voxel of 2 mm has two pixels.
    for slice_ in (axial, coronal):
        assert (slice_[:, -2:] == 0).all() and slice_[-1, 0] > 0
    white = int(page.max())
    assert [tuple(at) for at in np.argwhere(axial == white)] == [(0, 0)]
    assert [tuple(at) for at in np.argwhere(coronal == white)] == [(0, 0), (1, 0)]
    assert [tuple(at) for at in np.argwhere(sagittal == white)] == [(0, 0), (1, 0)]
    grey = np.unique(page).tolist()
    # Black is 0; white is 1.05 times the 99.5th percentile of the voxels above the mean.
    above = np.sort([600] * (10 * 8 * 6 - 3) + [1000] * 3)
    top = 1.05 * np.percentile(above, 99.5)
    assert grey == [0, round(255 * 600 / top), min(255, round(255 * 1000 / top))]


@pytest.mark.parametrize("axes", ["LPS", "PIR", "SAL"])
def test_the_order_of_axes_in_the_file_does_not_matter(axes: str) -> None:
    assert np.array_equal(pixels(volume(axes)), pixels(volume()))


def test_ct_has_the_contrast_of_the_body() -> None:
    page = pixels(volume(low=-1000))
    assert page.min() == 0 and page.max() == 255
    assert (page[2:10, 1:10] < 30).all()  # 600 is the least of the body


def test_large_volumes_become_smaller_pictures() -> None:
    image = nib.Nifti1Image(np.zeros((1100, 4, 4), np.int16), np.eye(4))
    assert pixels(Volume(image, {})).shape[1] == 512 + 3 + 512 + 3 + 2


def test_several_channels_have_no_picture() -> None:
    channels = nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), np.eye(4))
    assert Volume(channels, {})._repr_png_() is None


def test_pillow_is_not_needed() -> None:
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "import json, nibabel, numpy, maisi_client\n"
        "image = nibabel.Nifti1Image(numpy.ones((4, 4, 4), 'int16'), numpy.eye(4))\n"
        "print(json.dumps(maisi_client.Volume(image, {})._repr_png_()[:8].hex()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert json.loads(result.stdout) == b"\x89PNG\r\n\x1a\n".hex(), result.stderr
