"""Finished rows whose plan was edited afterwards, and those that only look as if it was."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from maisi_client import Client, InvalidRequest, Row, make_dataset
from maisi_client._datasets.unchanged import Unchanged

from tests.client.datasets.sets import make, masks
from tests.conftest import Server

NAMED = {
    "variant": "mini",
    "modality": "mri_t2",
    "organs": "brain, white matter hyperintensity",
    "augment": True,
    "spacing": 2.0,
    "seed": 7,
    "steps": 1,
    "guidance": 0.1,
    "guidance_interval": [0.0, 0.5],
    "solver": "euler",
    "redraws": 0,
}


@pytest.fixture(scope="module")
def made(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with two masks, and a dataset of a row with many arguments and one with few."""
    folder = tmp_path_factory.mktemp("made")
    one, _ = masks(folder, 2)
    rows = [
        Row("many", {**NAMED, "mask": one}),
        Row("few", {"mask": one, "seed": 1, "steps": 1}),
    ]
    with Client(server.grpc) as client:
        assert not {"failed", "kept"} & set(make(client, rows, folder / "set"))
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def row(folder: Path, name: str, **changes: Any) -> Row:
    arguments = {**NAMED, **changes} if name == "many" else {"seed": 1, "steps": 1, **changes}
    return Row(name, {"mask": folder / "mask-0.nii.gz", **arguments})


def refusal(client: Client, folder: Path, one: Row) -> str:
    with pytest.raises(InvalidRequest) as caught:
        next(make_dataset([one], folder / "set", client))
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": 8}, "seed is 8, but its volume was made with 7"),
        ({"modality": "mri_t1"}, "modality is 'mri_t1', but its volume was made with 'mri_t2'"),
        ({"steps": 2}, "steps is 2, but its volume was made with 1"),
        ({"guidance": 0.2}, "guidance is 0.2, but its volume was made with 0.1"),
        ({"augment": False}, "augment is False, but its volume was made with True"),
        ({"spacing": [2, 2, 3]}, "spacing is [2, 2, 3], but its volume was made with 2.0"),
        ({"organs": ["brain"]}, "organs is ['brain'], but its volume was made with 'brain, "),
        ({"solver": "heun"}, "solver is 'heun', but its volume was made with 'euler'"),
        ({"redraws": 1}, "redraws is 1, but its volume was made with 0"),
        ({"variant": "other"}, "variant is 'other', but its volume was made with 'mini'"),
        ({"guidance_interval": [0, 1]}, "guidance_interval is [0, 1], but its volume was made"),
        ({"steps": "one"}, "steps is 'one', but its volume was made with 1"),
    ],
)
def test_an_edited_argument_is_refused(
    client: Client, made: Path, changes: dict[str, Any], sentence: str
) -> None:
    refused = refusal(client, made, row(made, "many", **changes))
    assert refused.startswith(f"row 'many': {sentence}")
    assert re.search(r"reports.many\.json", refused)


@pytest.mark.parametrize(
    ("name", "value", "old"),
    [
        ("guidance", 1.5, "with 0.0"),
        ("modality", "mri_flair", "with 'mri_t1'"),
        ("vocabulary", "freesurfer", "with 'maisi'"),
        ("augment", True, "with False"),
        ("spacing", 1, "with [2.0, 2.0, 2.0]"),
        ("organs", "brain", "without it"),
        ("redraws", 1, "without it"),
    ],
)
def test_an_added_argument_is_refused_unless_it_is_the_default(
    client: Client, made: Path, name: str, value: Any, old: str
) -> None:
    refused = refusal(client, made, row(made, "few", **{name: value}))
    assert f"{name} is {value!r}, but its volume was made {old}" in refused


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": None},
        {"seed": np.int64(7), "steps": 1.0, "spacing": (2, 2, 2)},
        {"organs": ["white matter hyperintensity", "brain"]},
        {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
        {"modality": 10, "guidance": np.float64(0.1), "guidance_interval": (0, 0.5)},
    ],
)
def test_the_same_arguments_in_another_form_are_kept(
    client: Client, made: Path, changes: dict[str, Any]
) -> None:
    if isinstance(changes.get("steps"), float):
        changes = {**changes, "steps": np.int32(1)}
    assert make(client, [row(made, "many", **changes)], made / "set") == ["kept"]


def test_defaults_may_be_named(client: Client, made: Path) -> None:
    named = {"variant": "mini", "modality": "mri_t1", "guidance": 0, "augment": False}
    more = {"spacing": 2, "vocabulary": "maisi", "guidance_interval": [0, 1]}
    assert make(client, [row(made, "few", **named, **more)], made / "set") == ["kept"]


def test_another_mask_is_refused(client: Client, copy: Path) -> None:
    other = row(copy, "few", mask=copy / "mask-1.nii.gz")
    assert re.match(
        rf"row 'few': mask is '{copy}/mask-1.nii.gz' with SHA-256 [0-9a-f]{{64}}, but its volume"
        r" was made with '.*/mask-0.nii.gz' with SHA-256 [0-9a-f]{64}; ",
        refusal(client, copy, other),
    )


def test_a_mask_that_was_edited_in_its_place_is_refused(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = masks(tmp_path, 2)
    rows = [Row(name, {"mask": one, "seed": 1, "steps": 1}) for name in ("few", "more")]
    make(client, rows, tmp_path / "set")
    os.replace(other, one)  # an older file, which keeps its time
    assert "row 'few': mask is " in refusal(client, tmp_path, rows[0])


def test_a_row_that_gets_or_changes_a_picture(client: Client, tmp_path: Path) -> None:
    one, other = masks(tmp_path, 2)
    alone = Row("alone", {"size": [32, 32, 32], "seed": 1, "steps": 1})
    image = nib.load(one)
    unsaved = nib.Nifti1Image(np.asarray(image.dataobj), image.affine)
    memory = Row("memory", {"mask": unsaved, "seed": 1, "steps": 1})
    from_source = Row("source", {"source": one, "seed": 1, "steps": 2, "strength": 0.5})
    rows = [alone, memory, from_source]
    make(client, rows, tmp_path / "set")
    assert make(client, rows, tmp_path / "set") == ["kept"] * 3
    masked = replace(alone, arguments={**alone.arguments, "mask": one})
    assert "with SHA-256" in refusal(client, tmp_path, masked)
    assert "made without it" in refusal(client, tmp_path, masked)
    for row_, role in ((memory, "mask"), (from_source, "source")):
        changed = replace(row_, arguments={**row_.arguments, role: nib.load(other)})
        assert f"{role} is " in refusal(client, tmp_path, changed)
    saved = replace(memory, arguments={**memory.arguments, "mask": one})
    assert make(client, [saved], tmp_path / "set") == ["kept"]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Note the masks that are read to compare them."""
    from maisi_client._datasets import unchanged

    paths: list[Any] = []
    picture_digest = unchanged.picture_digest

    def noted(role: str, picture: Any, *more: Any) -> str:
        paths.append(picture)
        return picture_digest(role, picture, *more)

    monkeypatch.setattr(unchanged, "picture_digest", noted)
    yield paths


def test_moved_datasets_and_masks_are_kept(client: Client, copy: Path, read: list[Any]) -> None:
    both = [row(copy, "many"), row(copy, "few")]
    assert make(client, both, copy / "set") == ["kept", "kept"]
    assert read == [copy / "mask-0.nii.gz"]  # once for both rows


def test_masks_in_their_place_are_not_read(client: Client, made: Path, read: list[Any]) -> None:
    both = [row(made, "many"), row(made, "few")]
    assert make(client, both, made / "set") == ["kept", "kept"]
    assert not read


def test_masks_that_are_gone_are_not_compared(client: Client, tmp_path: Path) -> None:
    (one,) = masks(tmp_path, 1)
    rows = [Row("few", {"mask": one, "seed": 1, "steps": 1})]
    make(client, rows, tmp_path / "set")
    one.unlink()
    assert make(client, rows, tmp_path / "set") == ["kept"]


def test_every_channel_is_compared(client: Client, tmp_path: Path) -> None:
    (one,) = masks(tmp_path, 1)
    rows = [Row("few", {"mask": one, "steps": 1})]
    channels = ["mri_t1", "mri_t2"]
    make(client, rows, tmp_path / "set", channels=channels)
    assert make(client, rows, tmp_path / "set", channels=channels) == ["kept"]
    edited = [replace(rows[0], arguments={**rows[0].arguments, "steps": 2})]
    with pytest.raises(InvalidRequest, match=r"^row 'few': steps is 2, but its volume was made "):
        make(client, edited, tmp_path / "set", channels=channels)


@pytest.mark.parametrize(
    "anatomy",
    ["hepatic tumor=0.30,liver=1", {"liver": 1, "hepatic tumor": 0.3}, {"liver": 2}, "liver=big"],
)
def test_sizes_are_the_same_in_any_form(tmp_path: Path, anatomy: Any) -> None:
    request = {"anatomy": {"liver": 1.0, "hepatic tumor": 0.3}, "seed": 1}
    report = {"request": request, "sha256": {}}
    same = "tumor" in str(anatomy)
    with nullcontext() if same else pytest.raises(InvalidRequest, match="row 'a': anatomy is "):
        Unchanged().check(Row("a", {"anatomy": anatomy}), tmp_path / "a.json", report)
