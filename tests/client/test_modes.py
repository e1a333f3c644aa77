"""Every kind of request, by library and by command, against the real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from maisi_client import Client, InvalidRequest

from tests.client.command import maisi

QUICK: dict[str, Any] = {"steps": 2, "seed": 11}
FLIPPED = np.diag([-2.0, 2, 2, 1])


@pytest.fixture(scope="module")
def client(server: Any) -> Any:
    with Client(server.grpc, timeout=240) as client:
        yield client


@pytest.fixture(scope="module")
def ct(official_server: Any) -> Any:
    with Client(official_server.grpc, timeout=240) as client:
        yield client


def head(shape: tuple[int, int, int] = (32, 36, 40)) -> nib.Nifti1Image:
    data = np.zeros(shape, np.uint8)
    data[3:-3, 4:-6, 5:-2] = 22
    data[8:-8, 10:20, 8:20] = 227
    return nib.Nifti1Image(data, FLIPPED)


def test_a_preset_by_library_and_command(client: Client, server: Any, tmp_path: Path) -> None:
    volume = client.generate(preset="brain-t2", steps=1, seed=11)
    assert volume.image.shape == (96, 112, 96)
    assert (volume.report["preset"], volume.report["modality"]) == ("brain-t2", "mri_t2")
    assert [warning[:17] for warning in volume.report["warnings"]] == ["preset brain-t2: "]
    out = tmp_path / "out.nii.gz"
    arguments = ("--preset", "brain-t2", "--steps", "1", "--seed", "11")
    result = maisi("generate", "-o", out, *arguments, MAISI_URL=server.grpc)
    assert result.returncode == 0, result.stderr
    assert np.array_equal(nib.load(out).dataobj, volume.image.dataobj)
    with pytest.raises(InvalidRequest, match="preset: 'knee' is not one of those of mini"):
        client.generate(preset="knee")


def test_a_warning_names_the_nearest_preset(server: Any, tmp_path: Path) -> None:
    small = ("--size", "32,32,32", "--spacing", "2", "--steps", "1")
    result = maisi("generate", "-o", tmp_path / "out.nii", *small, MAISI_URL=server.grpc)
    assert result.returncode == 0
    assert "maisi: warning: field of view: 64 x 64 x 64 mm is far from what mini" in result.stderr
    assert "brain-t1 (96 x 112 x 96 voxels of 2 x 2 x 2 mm" in result.stderr


def test_strength_0_is_the_autoencoders_own_picture(client: Client) -> None:
    first = client.generate(size=[48, 48, 48], steps=10, seed=1)
    second = client.generate(source=first.image, strength=0, seed=1)
    other = client.generate(source=first.image, strength=0, seed=2)
    assert np.array_equal(second.image.dataobj, other.image.dataobj)
    assert np.array_equal(second.image.affine, first.image.affine)
    a, b = (np.asarray(volume.image.dataobj).astype(float) for volume in (first, second))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.95
    assert second.report["strength"] == 0


def test_a_source_comes_back_in_its_own_space(client: Client, tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 900, (34, 36, 40)).astype(np.float32)
    nib.save(nib.Nifti1Image(data, FLIPPED), tmp_path / "source.nii.gz")
    upright = nib.Nifti1Image(np.ascontiguousarray(data[::-1]), np.diag([2.0, 2, 2, 1]))
    flipped = client.generate(source=tmp_path / "source.nii.gz", strength=0.5, **QUICK)
    straight = client.generate(source=upright, strength=0.5, **QUICK)
    assert np.array_equal(flipped.image.affine, FLIPPED)
    a, b = (np.asarray(volume.image.dataobj) for volume in (flipped, straight))
    assert np.array_equal(a[::-1], b)


def test_a_source_under_a_mask_at_another_spacing(client: Client) -> None:
    mask = head()
    source = nib.Nifti1Image(np.asarray(mask.dataobj).astype(np.int16) * 3, FLIPPED)
    volume = client.generate(mask, source=source, strength=0.4, spacing=1.5, **QUICK)
    assert volume.image.shape == mask.shape
    assert volume.report["size"] == [43, 48, 53]
    assert (np.asarray(volume.image.dataobj)[np.asarray(mask.dataobj) == 0] == 0).all()
    moved_source = nib.Nifti1Image(np.asarray(source.dataobj), np.diag([2.0, 2, 2, 1]))
    with pytest.raises(InvalidRequest, match="the source is on another grid than the mask"):
        client.generate(mask, source=moved_source)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"source": "no.nii"}, "source 'no.nii' does not exist"),
        ({"source": nib.Nifti1Image(np.full((32, 32, 32), np.nan), np.eye(4))}, "holds NaN"),
        ({"source": nib.Nifti1Image(np.zeros((32, 32), "f4"), np.eye(4))}, "three dimensions"),
        ({"strength": 0.5}, "strength: needs a source"),
        ({"strength": "much"}, "strength is 'much'; a number is expected"),
        ({"redraws": 9, "size": [32] * 3}, "redraws: 9 is outside the allowed range, 0 to 5"),
        ({"anatomy": {"liver": 0.5}}, "anatomy: 'liver' is not one of ventricles, "),
        ({"vocabulary": "maisi"}, "vocabulary: mini does not have this input"),
    ],
)
def test_what_cannot_be_is_one_sentence(client: Client, bad: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence) as caught:
        client.generate(**bad)
    assert "\n" not in str(caught.value)


def test_a_volume_that_is_not_faithful_is_made_again(ct: Client) -> None:
    blocks = np.random.default_rng(0).choice(np.array([1, 28, 200], np.uint8), (8, 8, 8))
    mask = nib.Nifti1Image(blocks.repeat(4, 0).repeat(4, 1).repeat(4, 2), FLIPPED)
    arguments: dict[str, Any] = {"variant": "tiny-ddpm", "steps": 2, "seed": 3}
    once = ct.generate(mask, **arguments)
    assert once.report["fidelity"] == once.report["attempts"][0]
    assert once.report["fidelity"]["faithful"] is False  # with random weights
    assert once.report["fidelity"]["organs"]["lung"]["within"] is False
    thrice = ct.generate(mask, redraws=2, **arguments)
    attempts = thrice.report["attempts"]
    assert attempts[0] == once.report["attempts"][0]
    assert len(attempts) == 3
    ratios = [attempt["borders"]["ratio"] for attempt in attempts]
    assert len(set(ratios)) == len(ratios)
    assert thrice.report["fidelity"] in attempts
    best = attempts.index(thrice.report["fidelity"])
    same = np.array_equal(thrice.image.dataobj, once.image.dataobj)
    assert same == (best == 0)


def test_check_says_what_would_be(client: Client, server: Any, tmp_path: Path) -> None:
    mask = head((33, 36, 40))
    client.generate(mask, **QUICK)
    outlook = client.check(mask, steps=4)
    assert outlook["padded_size"] == [48, 48, 48]
    assert {label["id"]: label["voxels"] for label in outlook["labels"]} == {
        int(id_): int(n)
        for id_, n in zip(*np.unique(mask.dataobj, return_counts=True), strict=True)
        if id_
    }
    assert outlook["labels"][0]["ml"] == pytest.approx(
        outlook["labels"][0]["voxels"] * 0.008, abs=0.01
    )
    assert outlook["expected_seconds"] > 0
    assert outlook["expected_gb"] == pytest.approx(48**3 * 64 / 1e9, abs=1e-3)
    nib.save(mask, tmp_path / "mask.nii.gz")
    result = maisi("check", tmp_path / "mask.nii.gz", MAISI_URL=server.grpc)
    assert result.returncode == 0, result.stderr
    assert "33 x 36 x 40, padded to 48 x 48 x 48 inside" in result.stdout
    assert "right cerebral white matter" in result.stdout
    assert "warning: field of view" in result.stderr
    result = maisi("check", "--size", "9,9,9", MAISI_URL=server.grpc)
    assert result.returncode == 1
    assert "size: 9 x 9 x 9 voxels is outside the allowed range" in result.stderr


def test_info_prints_presets_as_a_table(official_server: Any) -> None:
    result = maisi("info", MAISI_URL=official_server.grpc)
    assert result.returncode == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["preset", "modality", "voxels", "spacing", "(mm)", "training", "data"] in lines
    row = "chest-abdomen ct 512 x 512 x 128 0.781 x 0.781 x 2.981 59 %"
    assert row.split() in lines


def test_a_pair_of_an_anatomy(ct: Client, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "variant": "tiny-ddpm",
        "size": [32, 40, 32],
        "spacing": 1.5,
        "seed": 1,
    }
    volume = ct.generate(anatomy={"liver": 0.5}, organs=["body", 57], steps=2, **arguments)
    assert volume.mask is not None
    assert np.array_equal(volume.mask.affine, volume.image.affine)
    assert set(np.unique(volume.mask.dataobj)) <= {0, 57, 200}
    volume.save(tmp_path / "ct.nii.gz")
    saved_mask = nib.load(tmp_path / "ct_mask.nii.gz")
    assert saved_mask.get_data_dtype() == np.uint8
    alone = ct.mask(anatomy="liver=0.5", organs="body, trachea", **arguments)
    assert np.array_equal(saved_mask.dataobj, alone.dataobj)


def test_a_mask_alone_by_command(official_server: Any, tmp_path: Path) -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[:, 8:20] = 5
    nib.save(nib.Nifti1Image(labels, np.diag([-3.0, 3, 3, 1])), tmp_path / "seg.nii.gz")
    out = tmp_path / "mask.nii.gz"
    words = ("--variant", "tiny-ddpm", "--vocabulary", "totalsegmentator-v2")
    result = maisi(
        "mask", tmp_path / "seg.nii.gz", "-o", out, *words, MAISI_URL=official_server.grpc
    )
    assert result.returncode == 0, result.stderr
    output = maisi("check", tmp_path / "seg.nii.gz", *words, MAISI_URL=official_server.grpc).stdout
    assert (
        "ids of totalsegmentator-v2 become MAISI's, the body around the organs is added" in output
    )
    image = nib.load(out)
    assert np.array_equal(image.affine, np.diag([-3.0, 3, 3, 1]))
    assert (np.asarray(image.dataobj)[labels == 5] == 1).all()
    assert set(np.unique(image.dataobj)) == {0, 1, 200}
