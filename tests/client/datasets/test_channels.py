"""Cases of several modalities: one seed, one grid, one mask, in every layout."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from maisi_client import Client, InvalidRequest, Row, Volume, make_dataset, reproduce

from tests.client.command import maisi
from tests.client.datasets.sets import make, plan

CHANNELS = ["mri_t1", "mri_flair"]
IMAGES = {
    "plain": ["images/case-00_mri_t1.nii.gz", "images/case-00_mri_flair.nii.gz"],
    "nnunet": ["imagesTr/case-00_0000.nii.gz", "imagesTr/case-00_0001.nii.gz"],
    "msd": ["imagesTr/case-00.nii.gz"],
    "bids": [
        f"sub-mask0/ses-case00/anat/sub-mask0_ses-case00_{suffix}.nii.gz"
        for suffix in ("T1w", "FLAIR")
    ],
}


def voxels(path: Path) -> Any:
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.usefixtures("faithful")
@pytest.mark.parametrize("layout", IMAGES)
def test_a_case_is_all_its_modalities(client: Client, tmp_path: Path, layout: str) -> None:
    rows, to = plan(tmp_path, 2, 1), tmp_path / "Dataset501_Channels"
    options: dict[str, Any] = {"layout": layout, "channels": CHANNELS}
    assert make(client, rows, to, **options) == ["done", "done"]
    volumes = [client.generate(**rows[0].arguments, modality=name) for name in CHANNELS]
    images = [voxels(to / path) for path in IMAGES[layout]]
    if layout == "msd":
        assert nib.load(to / IMAGES[layout][0]).header.get_zooms()[:3] == (2, 2, 2)
        images = list(np.moveaxis(images[0], -1, 0))
    for image, volume in zip(images, volumes, strict=True):
        assert np.array_equal(image, np.asarray(volume.image.dataobj))
    if layout in ("nnunet", "msd"):
        names = json.loads((to / "dataset.json").read_text())
        assert names["channel_names" if layout == "nnunet" else "modality"] == {
            "0": "mri_t1",
            "1": "mri_flair",
        }
    reports = [path for path in to.rglob("*.json") if re.search("case-?00_", path.name)]
    contents = [json.loads(path.read_text()) for path in reports]
    assert sorted(content["modality"] for content in contents) == sorted(CHANNELS)
    assert {content["seed"] for content in contents} == {0}
    reproduce(client, reports[0])
    if layout != "msd":  # whose image is both
        for path, modality in zip(IMAGES[layout], CHANNELS, strict=True):
            assert Volume.load(to / path).report["modality"] == modality

    assert make(client, rows, to, **options) == ["kept", "kept"]
    reports[0].unlink()
    assert sorted(make(client, rows, to, **options)) == ["done", "kept"]


@pytest.mark.usefixtures("faithful")
def test_msd_is_four_dimensions_to_monai(client: Client, tmp_path: Path) -> None:
    from monai.data import load_decathlon_datalist
    from monai.transforms import LoadImaged

    rows, to = plan(tmp_path, 1, 1), tmp_path / "Task01_Channels"
    make(client, rows, to, layout="msd", channels=CHANNELS)
    assert json.loads((to / "dataset.json").read_text())["tensorImageSize"] == "4D"
    (entry,) = load_decathlon_datalist(to / "dataset.json", True, "training")
    pair = LoadImaged(["image", "label"], ensure_channel_first=True)(entry)
    assert pair["image"].shape == (2, 32, 32, 32) and pair["label"].shape == (1, 32, 32, 32)


@pytest.mark.usefixtures("faithful")
def test_other_channels_want_another_folder(client: Client, tmp_path: Path) -> None:
    rows, to = plan(tmp_path, 1, 1), tmp_path / "Dataset501_Channels"
    make(client, rows, to, layout="nnunet", channels=CHANNELS)
    before = {path: path.read_bytes() for path in to.rglob("*") if path.is_file()}
    for other in (CHANNELS[::-1], ["mri_t1", "mri_swi"]):
        with pytest.raises(InvalidRequest, match=f"'.*' is not .* with the channels {other[0]}, "):
            make(client, rows, to, layout="nnunet", channels=other)
    assert {path: path.read_bytes() for path in to.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("faithful")
def test_a_row_without_a_seed_has_one_seed(client: Client, tmp_path: Path) -> None:
    (row,) = plan(tmp_path, 1, 1, seed=None)
    make(client, [row], tmp_path / "set", channels=CHANNELS)
    reports = [json.loads(path.read_text()) for path in tmp_path.glob("set/reports/*.json")]
    assert len(reports) == 2 and len({report["seed"] for report in reports}) == 1


def test_one_channel_that_is_unfaithful_sets_the_case_aside(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = Client.generate

    def measured(self: Client, *args: Any, **arguments: Any) -> Any:
        volume: Any = generate(self, *args, **arguments)
        volume.report["fidelity"] = {"faithful": arguments["modality"] == "mri_t1"}
        return volume

    monkeypatch.setattr(Client, "generate", measured)
    rows, to = plan(tmp_path, 1, 1), tmp_path / "set"
    assert make(client, rows, to, channels=CHANNELS) == ["unfaithful"]
    assert len(list(to.glob("unfaithful/images/*"))) == 2 and not (to / "images").exists()


def test_channels_are_the_modalities(client: Client, tmp_path: Path) -> None:
    rows = plan(tmp_path, 1, 1)
    wrong: list[tuple[str, list[Row], Any]] = [
        ("channels are .*; different modalities", rows, ["mri_t1", "mri_t1"]),
        ("channels are 'mri_t1'; different modalities", rows, "mri_t1"),
        ("row 'a' has the modality 'mri_t2'", [Row("a", {"modality": "mri_t2"})], CHANNELS),
    ]
    for sentence, some, channels in wrong:
        with pytest.raises(InvalidRequest, match=sentence):
            next(make_dataset(some, tmp_path / "x", client, channels=channels))
    assert not (tmp_path / "x").exists()


def test_the_command_takes_channels(client: Client, tmp_path: Path) -> None:
    plan(tmp_path, 1, 1)
    (tmp_path / "plan.csv").write_text("name,mask,steps\na,mask-0.nii.gz,1\n")
    words = ("dataset", tmp_path / "plan.csv", "--to", tmp_path / "set", "--url", client.url)
    result = maisi(*words, "--channels", "mri_t1,mri_flair")
    assert result.returncode == 0, result.stderr
    names = {path.name for path in (tmp_path / "set").rglob("images/*")}
    assert names == {"a_mri_t1.nii.gz", "a_mri_flair.nii.gz"}
