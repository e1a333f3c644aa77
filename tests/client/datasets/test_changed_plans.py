"""Plans and layouts that changed after rows were finished: nothing is described wrongly."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from maisi_client import Client, InvalidRequest, Row, make_dataset

from tests.client.datasets.sets import make, masks, plan

NAME = "Dataset501_Synthetic"


def refusal(client: Client, rows: list[Row], to: Path, **options: Any) -> str:
    before = {path: path.read_bytes() for path in to.rglob("*") if path.is_file()}
    with pytest.raises(InvalidRequest) as caught:
        make(client, rows, to, **options)
    assert {path: path.read_bytes() for path in to.rglob("*") if path.is_file()} == before
    return str(caught.value)


def groups(to: Path) -> dict[str, str]:
    with (to / "cases.csv").open(newline="") as file:
        return {row["name"]: row["group"] for row in csv.DictReader(file)}


@pytest.mark.usefixtures("faithful")
def test_another_layout_in_the_same_folder_is_refused(client: Client, tmp_path: Path) -> None:
    rows, to = plan(tmp_path, 1, 1), tmp_path / NAME
    make(client, rows, to)
    for layout in ("msd", "nnunet", "bids"):
        pattern = rf"reports.case-00\.json' is not .* in the layout {layout}; a folder"
        assert re.search(pattern, refusal(client, rows, to, layout=layout))
    other = tmp_path / "bids"
    make(client, rows, other, layout="bids")
    assert "in the layout plain" in refusal(client, rows, other)


@pytest.mark.usefixtures("faithful")
@pytest.mark.parametrize("layout", ["nnunet", "msd"])
def test_labels_keep_their_numbers(client: Client, tmp_path: Path, layout: str) -> None:
    one, other = masks(tmp_path, 2)
    arguments = {"mask": one, "seed": 0, "steps": 1}
    rows, to = [Row("one", {**arguments, "organs": "right cerebral white matter"})], tmp_path / NAME
    make(client, rows, to, layout=layout)
    for organs in ({"organs": "brain"}, {}):
        more = [*rows, Row("other", {**arguments, "mask": other, **organs})]
        assert "has other numbers of labels" in refusal(client, more, to, layout=layout)
        assert "has other numbers of labels" in refusal(client, more[1:], to, layout=layout)
    same = Row("other", {**rows[0].arguments, "mask": other})
    assert make(client, [*rows, same], to, layout=layout) == ["kept", "done"]


@pytest.mark.usefixtures("faithful")
def test_a_session_of_bids_has_one_path(client: Client, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    one, _ = masks(tmp_path / "a", 2)
    two = masks(tmp_path / "b", 2)[1].rename(tmp_path / "b" / one.name)
    rows = [Row(name, {"mask": mask, "seed": 1}) for name, mask in (("x", one), ("y", two))]
    rows = [replace(row, arguments={**row.arguments, "steps": 1}) for row in rows]
    to = tmp_path / "set"
    make(client, rows, to, layout="bids")
    assert groups(to) == {"x": "mask-0", "y": "mask-0-2"}
    # In another order, the groups have each other's names.
    assert "row 'y' has its report in" in refusal(client, rows[::-1], to, layout="bids")
    named = [replace(rows[0], group="p"), rows[1]]
    assert "need '" in refusal(client, named, to, layout="bids")
    edited = replace(rows[0], arguments={**rows[0].arguments, "modality": "mri_t2"})
    assert "row 'x' has its report" in refusal(client, [edited, rows[1]], to, layout="bids")
    assert make(client, rows, to, layout="bids") == ["kept", "kept"]


@pytest.mark.usefixtures("faithful")
def test_a_group_and_a_licence_can_be_added_later(client: Client, tmp_path: Path) -> None:
    rows, to = plan(tmp_path, 3, 3), tmp_path / NAME
    make(client, rows, to, layout="nnunet")
    assert len(set(groups(to).values())) == 3
    edited = [replace(row, group="person", license="CC-BY-4.0") for row in rows[:2]] + rows[2:]
    assert make(client, edited, to, layout="nnunet") == ["kept"] * 3
    expected = {"case-00": "person", "case-01": "person", "case-02": "mask-2"}
    assert groups(to) == expected
    assert "CC-BY-4.0" in (to / "README.md").read_text()
    for split in json.loads((to / "splits_final.json").read_text()):
        assert len({name in split["val"] for name in ("case-00", "case-01")}) == 1
    # Another plan in the folder keeps the groups, and a licence that was removed is gone.
    assert make(client, rows[2:], to, layout="nnunet") == ["kept"] and groups(to) == expected
    plain = [replace(row, license="") for row in edited]
    assert make(client, plain, to, layout="nnunet") == ["kept"] * 3
    assert "CC-BY-4.0" not in (to / "README.md").read_text()


def test_a_row_that_is_made_again_leaves_no_old_files(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, faithful = Client.generate, True

    def verdict(self: Client, *args: Any, **arguments: Any) -> Any:
        volume: Any = generate(self, *args, **arguments)
        volume.report["fidelity"] = {"faithful": faithful}
        return volume

    monkeypatch.setattr(Client, "generate", verdict)
    (row,), to = plan(tmp_path, 1, 1), tmp_path / "set"
    names = ["images/case-00.nii.gz", "labels/case-00.nii.gz", "reports/case-00.json"]

    def files() -> list[str]:
        return sorted(p.relative_to(to).as_posix() for p in to.rglob("case-00*") if p.is_file())

    assert make(client, [row], to) == ["done"] and files() == names
    for faithful, prefix in ((False, "unfaithful/"), (True, "")):  # noqa: B007
        next(to.rglob("reports/*.json")).unlink()
        make(client, [row], to)
        assert files() == [prefix + name for name in names]
    (to / names[-1]).unlink()
    wrong = replace(row, arguments={**row.arguments, "modality": "xray"})
    assert make(client, [wrong], to) == ["failed"] and files() == ["failed/case-00.json"]
    failure = (to / "failed/case-00.json").read_bytes()
    make(client, [row], to)
    (to / "failed/case-00.json").write_bytes(failure)  # as if killed before it was removed
    assert make(client, [row], to) == ["kept"] and files() == names


@pytest.mark.usefixtures("faithful")
def test_a_folder_may_have_any_name(client: Client, tmp_path: Path) -> None:
    to = tmp_path / "set-\udce9"
    assert make(client, plan(tmp_path, 1, 1), to, layout="msd") == ["done"]
    assert json.loads((to / "dataset.json").read_text())["name"] == "set-?"
    assert "set-?" in (to / "README.md").read_text()


def test_a_row_with_a_damaged_mask_fails_alone(client: Client, tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((8, 8, 8), np.uint8), None)
    rows = [Row("a", {"mask": image, "steps": 1}), *plan(tmp_path, 1, 1)]
    states = {one.name: one.state for one in make_dataset(rows, tmp_path / "set", client)}
    assert states["case-00"] in ("done", "unfaithful")
