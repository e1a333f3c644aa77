"""Datasets in the layouts of trainers, read by the trainers' own code."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from maisi_client import Client, InvalidRequest, Row, make_dataset


def mask(folder: Path) -> Path:
    grid = np.zeros((32, 36, 40), np.uint8)
    grid[4:28, 4:30, 4:30] = 22
    grid[10:20, 12:24, 9:25] = 227
    affine = np.array([[-2.0, 0, 0, 7], [0, 2, 0, 8], [0, 0, 2, 9], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(grid, affine), folder / "mask.nii.gz")
    return folder / "mask.nii.gz"


def rows(folder: Path) -> list[Row]:
    """Return three, the last of the default modality."""
    arguments = {"mask": mask(folder), "steps": 1}
    return [
        Row("case_1", {**arguments, "modality": "mri_t1", "seed": 1}),
        Row("case-2", {**arguments, "modality": "mri_flair", "seed": 2}),
        Row("three", {**arguments, "seed": 3}),
    ]


def finished_dataset(client: Client, to: Path, layout: str) -> Path:
    outcomes = list(make_dataset(rows(to.parent), to, client, layout=layout))
    assert [outcome.state for outcome in outcomes] == ["done"] * 3, outcomes
    second = list(make_dataset(rows(to.parent), to, client, layout=layout))
    assert [outcome.state for outcome in second] == ["kept"] * 3
    return to


@pytest.mark.usefixtures("faithful")
def test_nnunet(client: Client, tmp_path: Path) -> None:
    to = finished_dataset(client, tmp_path / "Dataset501_Synthetic", "nnunet")
    description = json.loads((to / "dataset.json").read_text())
    label_names = client.info()["mini"].labels
    assert list(description["labels"].values()) == list(range(len(label_names)))
    assert list(description["labels"]) == [label_names[id_] for id_ in sorted(label_names)]
    assert description["channel_names"] == {"0": "MRI"} and description["numTraining"] == 3
    labels = nib.load(to / "labelsTr" / "case_1.nii.gz")
    mask_ids = np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj)
    label_ids = np.asarray(labels.dataobj)
    for id_ in (0, 22, 227):
        assert (label_ids[mask_ids == id_] == description["labels"][label_names[id_]]).all()
    assert not (to / "splits_final.json").exists()  # of one anatomy
    assert "train nnU-Net's fold `all`" in (to / "README.md").read_text()


@pytest.mark.usefixtures("faithful")
def test_msd_is_read_by_monai(client: Client, tmp_path: Path) -> None:
    from monai.data import load_decathlon_datalist
    from monai.transforms import LoadImaged

    to = finished_dataset(client, tmp_path / "Task01_Synthetic", "msd")
    listed = load_decathlon_datalist(to / "dataset.json", True, "training")
    assert len(listed) == 3
    pair = LoadImaged(["image", "label"])(listed[0])
    assert pair["image"].shape == pair["label"].shape == (32, 36, 40)
    names = json.loads((to / "dataset.json").read_text())["labels"]
    names_in_label = {names[str(int(label))] for label in np.unique(pair["label"])}
    assert names_in_label == {"background", "brain", "right cerebral white matter"}


@pytest.mark.usefixtures("faithful")
def test_bids(client: Client, tmp_path: Path) -> None:
    to = finished_dataset(client, tmp_path / "synthetic", "bids")
    below = to / "derivatives" / "labels"
    for session, suffix in (("case1", "T1w"), ("case2", "FLAIR"), ("three", "T1w")):
        at, stem = Path("sub-mask", f"ses-{session}", "anat"), f"sub-mask_ses-{session}"
        assert {path.name for path in (to / at).iterdir()} == {
            f"{stem}_{suffix}{end}" for end in (".nii.gz", ".json")
        }
        (labels,) = (below / at).iterdir()
        assert labels.name == f"{stem}_dseg.nii.gz"
    people = (to / "participants.tsv").read_text()
    assert people == "participant_id\tgroup\nsub-mask\tmask\n"
    with (below / "dseg.tsv").open() as table:
        names = {row["index"]: row["name"] for row in csv.DictReader(table, delimiter="\t")}
    assert names["227"] == "right cerebral white matter"
    assert json.loads((to / "dataset_description.json").read_text())["DatasetType"] == "derivative"


def test_organs_choose_the_labels_of_the_description(client: Client, tmp_path: Path) -> None:
    arguments = {"mask": mask(tmp_path), "steps": 1, "seed": 1}
    ask = [
        Row("a", {**arguments, "organs": "brain"}),
        Row("b", {**arguments, "organs": [22, "227"]}),
    ]
    to = tmp_path / "Dataset002_Two"
    list(make_dataset(ask, to, client, layout="nnunet"))
    description = json.loads((to / "dataset.json").read_text())["labels"]
    assert description == {"background": 0, "brain": 1, "right cerebral white matter": 2}


@pytest.mark.parametrize(
    ("layout", "to", "arguments", "sentence"),
    [
        ("tar", "x", {}, "the layout is 'tar'; allowed are plain, nnunet, msd, bids"),
        ("nnunet", "x", {"anatomy": "a=1"}, "nnU-Net expects the name DatasetNNN_NAME"),
        ("nnunet", "Dataset001_X", {}, "row 'one' has neither mask nor anatomy; nnunet needs"),
        ("msd", "x", {"size": [32, 32, 32]}, "row 'one' has neither mask nor anatomy; msd needs"),
        ("bids", "x", {"variant": "none"}, "the variant is 'none'; the server has mini"),
        ("bids", "x", {"modality": "ct"}, "modality 'ct' has no name in BIDS; allowed are"),
    ],
)
def test_what_has_no_place(client: Client, tmp_path: Path, layout, to, arguments, sentence) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        next(make_dataset([Row("one", arguments)], tmp_path / to, client, layout=layout))
    assert not (tmp_path / to).exists()


@pytest.mark.parametrize(
    ("pair", "kind"),
    [
        ([Row("a-1", {}), Row("a_1", {})], "groups"),
        ([Row("a-1", {}, group="g"), Row("a_1", {}, group="g")], "rows"),
    ],
)
def test_two_names_that_bids_cannot_tell_apart(
    client: Client, tmp_path: Path, pair: list[Row], kind: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"{kind} 'a-1' and 'a_1' are both 'a1' in BIDS"):
        next(make_dataset(pair, tmp_path / "x", client, layout="bids"))


@pytest.mark.parametrize(
    ("layout", "file"),
    [
        ("nnunet", "dataset.json"),
        ("msd", "dataset.json"),
        ("bids", "dataset_description.json"),
        ("plain", "README.md"),
        ("plain", "cases.csv"),
        ("plain", "croissant.json"),
    ],
)
def test_descriptions_of_another_dataset_stay(
    client: Client, tmp_path: Path, layout: str, file: str
) -> None:
    to = tmp_path / "Dataset003_Real"
    to.mkdir()
    (to / file).write_text('{"name": "of patients"}')
    rows = [Row("one", {"mask": mask(tmp_path), "steps": 1, "seed": 1})]
    with pytest.raises(InvalidRequest, match=f"{file}' describes another dataset"):
        next(make_dataset(rows, to, client, layout=layout))
    assert [path.name for path in to.iterdir()] == [file]
    (to / file).unlink()
    for state in ("done", "kept"):  # its own are replaced
        assert [one.state for one in make_dataset(rows, to, client, layout=layout)] == [state]
