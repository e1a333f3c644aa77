"""Variants that take no mask, or body regions, by library and command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from maisi_client import Client, InvalidRequest

SIZE = [32, 32, 64]
MASK = nib.Nifti1Image(np.full((32, 32, 32), 22, np.uint8), np.eye(4))


@pytest.fixture(scope="module")
def client(official_server: Any) -> Any:
    with Client(official_server.grpc, timeout=240) as client:
        yield client


def maisi(*args: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "maisi_client", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_variant_without_masks_makes_images(client: Client) -> None:
    volume = client.generate(variant="tiny-brain", modality="mri_t2", size=SIZE, seed=1)
    assert volume.image.shape == (32, 32, 64)
    assert volume.report["modality"] == "mri_t2"
    assert volume.report["masked"] is False


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"mask": MASK}, "mask: tiny-brain takes none; what it takes is source, strength, preset"),
        ({"top_region": "head"}, "top_region: tiny-brain takes none"),
        ({"variant": "tiny-brian", "mask": MASK}, "the variant is 'tiny-brian'; .*tiny-brain"),
    ],
)
def test_what_a_variant_does_not_take_stays_here(
    client: Client, official_server: Any, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRequest, match=said):
        client.generate(**{"variant": "tiny-brain", **asked})


def test_regions_are_given_or_found_in_the_mask(client: Client) -> None:
    asked: dict[str, Any] = {"variant": "tiny-ddpm", "seed": 1}
    given = client.generate(size=SIZE, top_region="head", bottom_region="lower", **asked)
    assert (given.report["top_region"], given.report["bottom_region"]) == ("head", "lower")
    found = client.generate(MASK, **asked)
    assert (found.report["top_region"], found.report["bottom_region"]) == ("head", "head")
    with pytest.raises(InvalidRequest, match="top_region: 'foot' is not one of head"):
        client.generate(size=SIZE, top_region="foot", **asked)


def test_info_tells_masks_and_regions(client: Client, official_server: Any) -> None:
    variants = client.info()
    assert variants["tiny-ddpm"].masks and not variants["tiny-brain"].masks
    assert variants["tiny-ddpm"].regions == ("head", "chest", "abdomen", "lower")
    assert variants["tiny-brain"].regions == ()
    said = maisi("info", "--url", official_server.grpc).stdout
    brain, ddpm = sorted(said.split("\n\n"))
    assert brain.startswith("tiny-brain") and "masks         none" in brain
    assert "labels" not in brain and "regions" not in brain
    assert "regions       head, chest, abdomen, lower" in ddpm and "masks" not in ddpm


def test_the_command_makes_them(official_server: Any, tmp_path: Path) -> None:
    size = ("--size", "32,32,64", "--seed", 1, "--url", official_server.grpc)
    brain = ("--variant", "tiny-brain", "--modality", "mri_t1", *size)
    done = maisi("generate", "-o", tmp_path / "t1.nii.gz", *brain)
    assert done.returncode == 0, done.stderr
    assert nib.load(tmp_path / "t1.nii.gz").shape == (32, 32, 64)
    ends = ("--variant", "tiny-ddpm", "--top-region", "head", "--bottom-region", "chest")
    done = maisi("generate", "-o", tmp_path / "ct.nii.gz", *ends, *size)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "ct.json").read_text())
    assert (report["top_region"], report["bottom_region"]) == ("head", "chest")
    nib.save(MASK, tmp_path / "mask.nii.gz")
    done = maisi("generate", tmp_path / "mask.nii.gz", "-o", tmp_path / "no.nii.gz", *brain)
    assert done.returncode == 1
    assert done.stderr.startswith("maisi: mask: tiny-brain takes none; what it takes is source")
    assert not (tmp_path / "no.nii.gz").exists()
