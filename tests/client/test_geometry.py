"""Every output of the client: the volume is on its mask's grid, with tissue under its labels.

Read back by ITK and nibabel, which use different parts of a NIfTI header.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from maisi_client import Client, Row, Volume, aio, make_dataset, reproduce, save_dicom
from maisi_client.torch import SyntheticPairs
from numpy.typing import NDArray
from scipy import ndimage

from tests.client.affines import oblique

SHAPE, SIZES = (44, 48, 42), (2.0, 1.9, 2.1)  # by the stored axes
ORIENTATIONS = {
    "RAS": ("RAS", 0.0),
    "LAS": ("LAS", 0.0),
    "LPS": ("LPS", 0.0),
    "PSR": ("PSR", 0.0),
    "oblique": ("SAL", 17.0),
}
SPACINGS = {"own": {}, "coarser": {"spacing": 2.6}, "finer": {"spacing": (1.8, 1.7, 2.0)}}
FAST = {"steps": 1, "seed": 3, "modality": "mri_t1"}


def labels_of(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a head without symmetry, near one corner, with a spot of one voxel far from it."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt((x + 0.2) ** 2 + (y - 0.1) ** 2 + (z + 0.15) ** 2)
    labels = np.zeros(shape, np.uint8)
    for limit, id_ in ((0.75, 168), (0.68, 22), (0.45, 227)):
        labels[radius < limit] = id_
    labels[(radius < 0.4) & (x > 0)] = 228
    labels[-2, -2, -3] = 22
    return labels


@pytest.fixture(params=ORIENTATIONS)
def mask(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Write a mask whose qform differs from its sform, so that readers differ."""
    codes, degrees = ORIENTATIONS[request.param]
    affine = oblique(codes, SIZES, degrees)
    image = nib.Nifti1Image(labels_of(SHAPE), affine)
    elsewhere = affine.copy()
    elsewhere[:3, 3] += (30, 0, 0)
    image.header.set_sform(affine, 2)
    image.header.set_qform(elsewhere, 1)
    image.to_filename(tmp_path / "mask.nii.gz")
    return tmp_path / "mask.nii.gz"


@pytest.fixture
def client(server: Any) -> Iterator[Client]:
    with Client(server.grpc) as client:
        yield client


def check_pair(image: Path, labels: Path, mask: Path) -> None:
    """Check that three files have the same grid, and that tissue is where the labels are."""
    volume, label_map, original = (sitk.ReadImage(str(path)) for path in (image, labels, mask))
    for picture in (volume, label_map):
        assert picture.GetSize() == original.GetSize()
        for corner in ((0, 0, 0), tuple(n - 1 for n in original.GetSize())):
            distance = np.subtract(
                picture.TransformIndexToPhysicalPoint(corner),
                original.TransformIndexToPhysicalPoint(corner),
            )
            assert np.abs(distance).max() < 1e-3
        assert np.allclose(picture.GetDirection(), original.GetDirection(), atol=1e-5)
    pictures = [nib.load(path) for path in (image, labels, mask)]
    assert {picture.shape for picture in pictures} == {SHAPE}
    assert all(np.allclose(one.affine, pictures[2].affine, atol=1e-4) for one in pictures)
    check_tissue(*(np.asanyarray(picture.dataobj) for picture in pictures[:2]))


def check_tissue(volume: NDArray[Any], labels: NDArray[Any]) -> None:
    assert labels.any() and not labels.all()
    background = volume == volume.min()
    assert background[labels == 0].all()
    # A voxel of tissue may have the lowest grey level; skin is dark at the surface.
    inside = ndimage.binary_erosion(labels.squeeze() > 0, iterations=2)
    assert inside.any() and background.squeeze()[inside].mean() < 1e-3


@pytest.mark.parametrize("spacing", SPACINGS)
def test_generate_and_reproduce(client: Client, mask: Path, tmp_path: Path, spacing: str) -> None:
    arguments = FAST | SPACINGS[spacing]
    result = client.generate(mask, **arguments)
    report = result.save(tmp_path / "scan.nii.gz")
    mask_file = tmp_path / "scan_mask.nii.gz"
    assert spacing != "own" or not mask_file.exists()
    check_pair(tmp_path / "scan.nii.gz", mask_file if mask_file.exists() else mask, mask)

    async def with_asyncio() -> Volume:
        async with aio.Client(client.url) as other:
            return await other.generate(mask, **arguments)

    assert asyncio.run(with_asyncio()).report["sha256"] == result.report["sha256"]

    again = reproduce(client, report)
    again.save(tmp_path / "again.nii.gz")
    for name in ("scan.nii.gz", "scan_mask.nii.gz"):
        if (tmp_path / name).exists():
            other = tmp_path / name.replace("scan", "again")
            assert (tmp_path / name).read_bytes() == other.read_bytes()


def test_dataset_in_every_layout(
    client: Client, mask: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Row(name, {"mask": mask, **FAST, **SPACINGS[name]}) for name in ("own", "coarser")]
    folder = tmp_path / "Dataset501_Geometry"
    places = {
        "plain": ("images/{}.nii.gz", "labels/{}.nii.gz"),
        "nnunet": ("imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz"),
        "msd": ("imagesTr/{}.nii.gz", "labelsTr/{}.nii.gz"),
        "bids": ("_ses-{}_T1w.nii.gz", "_ses-{}_dseg.nii.gz"),
    }
    volumes: dict[str, Volume] = {}
    every_time = Client.generate

    def once(self: Client, on_progress: Any = None, **arguments: Any) -> Volume:
        """Make each row once for all layouts."""
        key = str(arguments.get("spacing"))
        if key not in volumes:
            volumes[key] = every_time(self, **arguments)
        return volumes[key]

    monkeypatch.setattr(Client, "generate", once)
    for layout, files in places.items():
        to = tmp_path / layout / folder.name
        states = [outcome.state for outcome in make_dataset(rows, to, client, layout=layout)]
        assert set(states) <= {"done", "unfaithful"}, states
        for row in rows:
            image, labels = (
                next(
                    path
                    for path in to.rglob("*.nii.gz")
                    if str(path).endswith(file.format(row.name))
                )
                for file in files
            )
            check_pair(image, labels, mask)


@pytest.mark.parametrize("spacing", ["own", "coarser"])
def test_dicom(client: Client, mask: Path, tmp_path: Path, spacing: str) -> None:
    volume = client.generate(mask, **FAST, **SPACINGS[spacing])
    save_dicom(volume, tmp_path / "series", mask=volume.mask or mask)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sorted(map(str, (tmp_path / "series").glob("0*.dcm"))))
    series = reader.Execute()

    volume.save(tmp_path / "scan.nii.gz")
    sform = nib.load(tmp_path / "scan.nii.gz")
    sform.header.set_qform(sform.affine, 1)  # DICOM has one place: that of nibabel
    sform.to_filename(tmp_path / "one_form.nii.gz")
    own = sitk.ReadImage(str(tmp_path / "one_form.nii.gz"))
    onto = sitk.Resample(series, own, sitk.Transform(), sitk.sitkNearestNeighbor, -32768)
    assert np.array_equal(sitk.GetArrayFromImage(onto), sitk.GetArrayFromImage(own))
    back = client.generate(
        tmp_path / "series" / "mask.dcm", source=tmp_path / "scan.nii.gz", **FAST
    )
    assert np.allclose(
        nib.as_closest_canonical(back.image).affine,
        nib.as_closest_canonical(volume.image).affine,
        atol=1e-3,
    )


@pytest.mark.parametrize("spacing", ["own", "coarser"])
def test_torch(server: Any, mask: Path, spacing: str) -> None:
    rows = [{"mask": mask, **FAST, **SPACINGS[spacing]}]
    (pair,) = SyntheticPairs(rows, server.grpc)
    assert pair["image"].shape == pair["label"].shape == (1, *SHAPE)
    assert np.allclose(pair["affine"], nib.load(mask).affine, atol=1e-4)
    check_tissue(pair["image"].numpy(), pair["label"].numpy())
    if spacing == "own":
        assert np.array_equal(pair["label"][0].numpy(), np.asarray(nib.load(mask).dataobj))


def test_a_body_that_the_server_adds_stays_at_another_spacing(
    official_server: Any, tmp_path: Path
) -> None:
    """Background is where the mask that the server used has none, not that of the request."""
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[12:28, 14:26, 12:28] = 1  # liver alone
    with Client(official_server.grpc) as client:
        result: Volume = client.generate(
            nib.Nifti1Image(labels, np.diag([2.0, 2, 2, 1])),
            variant="tiny-ddpm",
            seed=3,
            steps=2,
            spacing=2.5,
        )
    assert result.mask is not None and result.report["body_added"]
    labels_used, volume = (np.asanyarray(image.dataobj) for image in (result.mask, result.image))
    assert np.array_equal(labels_used == 0, np.isin(volume, volume.min()) & (labels_used == 0))
    assert (volume[labels_used == 200] > volume.min()).mean() > 0.8


def test_organs_choose_the_mask_that_comes_back_and_not_the_tissue(client: Client) -> None:
    image = nib.Nifti1Image(labels_of(SHAPE), np.diag([2.0, 2, 2, 1]))
    for spacing in (2.0, 2.4):
        complete = client.generate(image, **FAST, spacing=spacing)
        partial = client.generate(image, **FAST, spacing=spacing, organs=[228])
        assert set(np.unique(partial.mask.dataobj)) == {0, 228}
        one, other = (np.asanyarray(result.image.dataobj) > 0 for result in (complete, partial))
        assert (one == other).mean() > 0.98  # at the outline the mask's own voxels are finer
        assert spacing != 2 or np.array_equal(one, other)


def test_a_label_that_another_spacing_loses_is_not_in_the_mask_that_comes_back(
    client: Client,
) -> None:
    labels = np.full((64, 64, 64), 22, np.uint8)
    labels[32, 32, 32] = 239
    result = client.generate(nib.Nifti1Image(labels, np.eye(4)), **FAST, spacing=2)
    assert any("labels 239" in warning for warning in result.report["warnings"])
    assert result.mask is not None
    assert set(np.unique(result.mask.dataobj)) == {22}
