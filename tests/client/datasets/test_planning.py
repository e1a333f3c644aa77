"""Random plans: exact shares, masks equally often, the same bytes every time."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from maisi_client import InvalidRequest, Row, make_plan, read_plan, write_plan

from tests.client.command import NOBODY, maisi
from tests.conftest import Server


def masks(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for index in range(count):
        (folder / f"mask-{index}.nii.gz").write_text(f"mask {index}")
    (folder / ".draft.nii.gz").touch()
    (folder / "notes.txt").touch()
    return folder


def column(rows: list[Row], key: str) -> list[Any]:
    return [row.arguments.get(key) for row in rows]


@pytest.mark.parametrize(
    ("count", "shares", "counts"),
    [
        (1000, {"mri_t1": 0.5, "mri_flair": 0.5}, {"mri_t1": 500, "mri_flair": 500}),
        (100, {"a": 0.29, "b": 0.71}, {"a": 29, "b": 71}),  # 0.29 * 100 is less than 29
        (10, {"a": 1, "b": 1, "c": 1}, {"a": 4, "b": 3, "c": 3}),
        (10, {"a": 0.15, "b": 0.85}, {"a": 2, "b": 8}),  # a tie, and 0.15 is no binary number
        (3, {"a": 98, "b": 1, "c": 1}, {"a": 3}),
    ],
)
def test_shares_are_met_to_within_a_row(
    count: int, shares: dict[str, float], counts: dict[str, int]
) -> None:
    assert Counter(column(make_plan(count, modalities=shares), "modality")) == counts


def test_the_order_is_random_and_the_same_in_every_python() -> None:
    def order(seed: int) -> str:
        rows = make_plan(12, modalities={"1": 1, "2": 1}, seed=seed)
        return "".join(column(rows, "modality"))

    assert [order(0), order(1)] == ["121122121212", "221121121221"]


def test_names_and_seeds_are_by_number_and_plans_share_no_seed() -> None:
    one, two = make_plan(10001), make_plan(10001, seed=1)
    assert [one[0].name, one[-1].name] == ["case_00000", "case_10000"]
    assert make_plan(10000)[-1].name == "case_9999" and make_plan(1)[0].name == "case_0000"
    assert column(one, "seed") == list(range(10001))
    assert column(two, "seed")[:2] == [2**32, 2**32 + 1]


def test_masks_are_used_equally_often_in_each_modality(tmp_path: Path) -> None:
    folder = masks(tmp_path / "masks", 7)
    rows = make_plan(100, modalities={"a": 2, "b": 1}, masks=[folder], augment=True)
    uses = Counter(column(rows, "mask"))
    assert len(uses) == 7 and set(uses.values()) == {14, 15}
    for name in ("a", "b"):
        of_one = [row for row in rows if row.arguments["modality"] == name]
        times = Counter(column(of_one, "mask")).values()
        assert max(times) - min(times) <= 1
    assert set(column(rows, "augment")) == {True}
    assert {(row.group, row.arguments["mask"].name) for row in rows} == {
        (f"mask-{index}", f"mask-{index}.nii.gz") for index in range(7)
    }
    # The position of a row does not depend on its mask.
    assert column(rows, "mask")[:7] != sorted(uses)
    alone = make_plan(2, masks=[folder / "mask-3.nii.gz", folder / "mask-3.nii.gz"])
    assert set(column(alone, "mask")) == {folder / "mask-3.nii.gz"}


@pytest.mark.parametrize("name", ["plan.csv", "plan.jsonl"])
def test_what_is_written_is_read_and_the_same_bytes(tmp_path: Path, name: str) -> None:
    folder = masks(tmp_path / "masks", 3)
    rows = make_plan(
        20,
        modalities={"mri_t1": 1, "mri_t2": 1},
        masks=[folder],
        augment=True,
        seed=3,
        variant="mini",
        spacing=(1.5, 1.5, 2),
        steps=10,
        guidance=None,
    )
    rows += [
        Row("other", {"size": [32, 40, 48], "spacing": 2.0, "seed": 1, "organs": "liver, lung"}),
        Row("terms", {"guidance_interval": [0.1, 0.123456789], "seed": 2}, 'CC "BY", 4.0', "g"),
    ]
    sizes = write_plan(
        [Row("a", {"anatomy": {"tumor": 0.5, "head": 1}, "seed": 0})], tmp_path / f"a-{name}"
    )
    (anatomy,) = read_plan(sizes)
    assert write_plan([anatomy], tmp_path / f"b-{name}").read_bytes() == sizes.read_bytes()
    path = write_plan(rows, tmp_path / name)
    assert read_plan(path) == [*rows[:-2], replace(rows[-2], group="other"), rows[-1]]
    assert "masks/mask-0.nii.gz" in path.read_text() and str(tmp_path) not in path.read_text()
    before = path.read_bytes()
    assert write_plan(rows, path).read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_masks_lie_anywhere_and_behind_links(tmp_path: Path) -> None:
    folder = masks(tmp_path / "data" / "masks", 1)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    (folder / "linked.nii.gz").symlink_to(tmp_path / "data" / "masks" / "mask-0.nii.gz")
    rows = make_plan(2, masks=[folder])
    path = write_plan(rows, tmp_path / "link" / "plan.csv")
    paths = [row.arguments["mask"] for row in read_plan(path)]
    assert {mask.name for mask in paths} == {"mask-0.nii.gz", "linked.nii.gz"}
    assert {mask.resolve() for mask in paths} == {folder / "mask-0.nii.gz"}


def test_what_contradicts_itself_is_refused(tmp_path: Path) -> None:
    folder = masks(tmp_path / "masks", 2)
    (tmp_path / "empty").mkdir()
    wrong: list[tuple[str, int, dict[str, Any]]] = [
        ("the plan would have 0 rows; allowed are 1 to", 0, {}),
        ("the seed of the plan is -1; allowed are 0 to 2147483647", 1, {"seed": -1}),
        ("the share of a is -1; a number above 0 is expected", 1, {"modalities": {"a": -1}}),
        ("the share of a is nan", 1, {"modalities": {"a": float("nan")}}),
        ("size cannot be combined with masks", 1, {"masks": [folder], "size": [32, 32, 32]}),
        ("preset cannot be combined with masks", 1, {"masks": [folder], "preset": "brain-t1"}),
        ("augment needs masks", 1, {"augment": True}),
        ("folder '.*empty' has no .nii or .nii.gz", 1, {"masks": [tmp_path / "empty"]}),
        ("'.*nowhere.nii' is neither a folder nor", 1, {"masks": [tmp_path / "nowhere.nii"]}),
        ("notes.txt' is neither", 1, {"masks": [folder / "notes.txt"]}),
    ]
    for sentence, count, arguments in wrong:
        with pytest.raises(InvalidRequest, match=sentence):
            make_plan(count, **arguments)


def test_what_no_plan_can_hold_is_refused(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    with pytest.raises(InvalidRequest, match="row a: mask is of type Nifti1Image; a plan holds"):
        write_plan([Row("a", {"mask": image})], tmp_path / "plan.csv")
    with pytest.raises(
        InvalidRequest, match="row a: 'modalty' is not a column; allowed are variant, mask"
    ):
        write_plan([Row("a", {"modalty": "mri_t1"})], tmp_path / "plan.csv")
    with pytest.raises(InvalidRequest, match=r"must end in \.csv or \.jsonl"):
        write_plan([Row("a", {})], tmp_path / "plan.txt")
    with pytest.raises(InvalidRequest, match=r"the plan '.*' cannot be written: .*No such file"):
        write_plan([Row("a", {})], tmp_path / "nowhere" / "plan.csv")
    assert list(tmp_path.iterdir()) == []


def test_the_command_needs_no_server(tmp_path: Path) -> None:
    folder, path = masks(tmp_path / "masks", 2), tmp_path / "plan.csv"
    words = ["plan", path, "-n", "4", "--modality", "mri_t1=0.5,mri_flair=0.5"]
    words += ["--masks", folder, "--augment", "--seed", "1", "--spacing", "2", "--steps", "10"]
    assert maisi(*words, MAISI_URL=NOBODY, MAISI_VARIANT="").returncode == 0
    assert not any("variant" in row.arguments for row in read_plan(path))
    result = maisi(*words, MAISI_URL=NOBODY, MAISI_VARIANT="mini")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{path}: 4 rows of 2 anatomies, 2 mri_flair, 2 mri_t1\n"
    shares = {"mri_t1": 1, "mri_flair": 1}
    same: dict[str, Any] = {"variant": "mini", "spacing": [2, 2, 2], "steps": 10}
    assert read_plan(path) == make_plan(
        4, modalities=shares, masks=[folder], augment=True, seed=1, **same
    )
    result = maisi("plan", path, "-n", "1", "--modality", "a=1,a=2")
    assert result.returncode == 2 and "'a=1,a=2' has a name twice or none" in result.stderr
    result = maisi("plan", path, "-n", "1", "--augment", "--json")
    assert result.returncode == 1 and json.loads(result.stdout)["error"]["type"] == "InvalidRequest"


def test_a_plan_becomes_a_dataset(server: Server, tmp_path: Path) -> None:
    grid = np.zeros((32, 32, 32), np.uint8)
    grid[8:24, 8:24, 8:24] = 22
    nib.save(nib.Nifti1Image(grid, np.diag([2, 2, 2, 1])), tmp_path / "mask.nii.gz")
    path, to = tmp_path / "plan.jsonl", tmp_path / "set"
    shares = "mri_t1=2,mri_flair=1"
    words = ["--masks", tmp_path / "mask.nii.gz", "--augment", "--modality", shares]
    result = maisi("plan", path, "-n", "3", *words, "--steps", "1")
    assert result.returncode == 0, result.stderr
    result = maisi("dataset", path, "--to", to, "--url", server.grpc)
    assert result.returncode == 0, result.stderr
    reports = [json.loads(report.read_text()) for report in to.rglob("reports/*.json")]
    assert Counter(report["modality"] for report in reports) == {"mri_t1": 2, "mri_flair": 1}
    assert sorted(report["seed"] for report in reports) == [0, 1, 2]
    assert all(report["augmented"] and report["masked"] for report in reports)
