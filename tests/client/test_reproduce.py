"""A sidecar reproduces the same volume, or the digest that differs is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from maisi_client import Client, InvalidRequest, Mismatch, reproduce
from maisi_client._cli import main

from tests.conftest import ROOT, Server


@pytest.fixture(scope="module")
def client(server: Server):
    with Client(server.grpc) as client:
        yield client


@pytest.fixture
def sidecar(client: Client, tmp_path: Path) -> Path:
    """Return the report of a volume of a cropped mask with an oblique affine, augmented."""
    example = nib.load(ROOT / "examples" / "brain_mask.nii.gz")
    affine = example.affine.copy()
    affine[:3, :3] = affine[:3, :3] @ np.array([[0, 1, 0], [1, 0, 0], [0, 0.1, 0.9]])
    crop = np.asarray(example.dataobj)[20:68, 20:60, 20:64]
    nib.save(nib.Nifti1Image(crop, affine), tmp_path / "mask.nii.gz")
    volume = client.generate(tmp_path / "mask.nii.gz", augment=True, steps=1, spacing=2)
    return volume.save(tmp_path / "volume.nii.gz")


def test_the_same_again(server: Server, client: Client, sidecar: Path, capsys) -> None:
    report = json.loads(sidecar.read_text())
    assert report["request"].keys() == {"mask", "variant", "seed", "augment", "steps", "spacing"}
    assert report["sha256"].keys() == {"image", "mask", "used_mask"}
    out = sidecar.with_name("again.nii.gz")
    assert main(["reproduce", str(sidecar), "-o", str(out), f"--url={server.grpc}"]) == 0
    assert report["sha256"]["image"] in capsys.readouterr().out
    assert out.read_bytes() == sidecar.with_name("volume.nii.gz").read_bytes()


def test_a_mask_that_moved(client: Client, sidecar: Path) -> None:
    new_path = shutil.move(sidecar.with_name("mask.nii.gz"), sidecar.with_name("moved.nii.gz"))
    with pytest.raises(InvalidRequest, match=r"mask.nii.gz' (does not exist|cannot be read)"):
        reproduce(client, sidecar)
    reproduce(client, sidecar, mask=new_path)


def test_another_mask(client: Client, sidecar: Path) -> None:
    with pytest.raises(Mismatch, match=r"the mask has SHA-256 .* the volume was made of"):
        reproduce(client, sidecar, mask=ROOT / "examples" / "brain_mask.nii.gz")


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("weights", "weights of autoencoder: the server has SHA-256"),
        ("request", "the image has SHA-256 .*, not .*; maisi was 0.0.1 and is"),
    ],
)
def test_what_differs_is_named(client: Client, sidecar: Path, part: str, sentence: str) -> None:
    report = json.loads(sidecar.read_text())
    report["versions"]["maisi"] = "0.0.1"
    report[part]["autoencoder" if part == "weights" else "seed"] = 1
    sidecar.write_text(json.dumps(report))
    with pytest.raises(Mismatch, match=sentence):
        reproduce(client, sidecar)


def test_a_volume_in_bfloat16_needs_bfloat16(client: Client, sidecar: Path) -> None:
    report = json.loads(sidecar.read_text())
    report |= {"bfloat16": True, "sha256": {**report["sha256"], "image": "0"}}
    sidecar.write_text(json.dumps(report))
    with pytest.raises(Mismatch, match=r"not 0; bfloat16 was True and is False$"):
        reproduce(client, sidecar)


def test_an_argument_of_another_version_is_refused(client: Client, sidecar: Path) -> None:
    report = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**report, "request": {**report["request"], "tiles": 3}}))
    with pytest.raises(InvalidRequest, match=r"volume.json' .* request has 'tiles', which is no"):
        reproduce(client, sidecar)


def test_a_path_with_joiners(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "\u0645\u063a\u0632\u200c\u0631\u0627\u0633\u062a.nii.gz"
    nib.save(nib.Nifti1Image(np.full((32, 32, 32), 22, np.uint8), np.diag([2.0, 2, 2, 1])), path)
    reproduce(client, client.generate(path, steps=1).save(tmp_path / "volume.nii.gz"))


def test_no_sidecar(client: Client, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InvalidRequest, match=r"x.json' is not the report of a volume"):
        reproduce(client, tmp_path / "x.json")
