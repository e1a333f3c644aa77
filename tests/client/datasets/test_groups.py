"""Rows of one anatomy have one group, and no fold has a group on both sides."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from maisi_client import InvalidRequest, Row, read_plan, write_plan
from maisi_client._datasets.groups import assign_groups, folds


def groups(*rows: Row) -> list[str]:
    return [row.group for row in assign_groups(rows)]


def row(name: str, group: str = "", **arguments: Any) -> Row:
    return Row(name, {"seed": ord(name[-1]), **arguments}, group=group)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        (tmp_path / f"{name}.nii.gz").write_text(name)
    return tmp_path


def test_rows_of_one_mask_are_named_after_it(folder: Path) -> None:
    one, two = folder / "one.nii.gz", folder / "two.nii.gz"
    rows = [row("a", mask=one), row("b", mask=two), row("c", mask=str(one), augment=True)]
    assert groups(*rows) == ["one", "two", "one"]


@pytest.mark.parametrize("put", [shutil.copy, os.link, os.symlink])
def test_a_mask_is_the_same_under_another_name(
    folder: Path, put: Callable[[Path, Path], object]
) -> None:
    put(folder / "one.nii.gz", folder / "copy.nii.gz")
    masks = [folder / f"{name}.nii.gz" for name in ("copy", "one", "two")]
    assert groups(*(row(mask.name[0], mask=mask) for mask in masks)) == ["copy", "copy", "two"]


def test_a_source_joins_what_masks_part(folder: Path) -> None:
    one, two = folder / "one.nii.gz", folder / "two.nii.gz"
    rows = [row("a", mask=one), row("b", source=two), row("c", mask=one, source=two)]
    assert groups(*rows) == ["one"] * 3


def test_what_the_server_makes_with_one_seed_is_one_anatomy() -> None:
    sizes = {"anatomy": {"liver": 0.5}}
    rows = [Row("a", {"seed": 1, **sizes}), Row("b", {"seed": 1, "anatomy": "liver=0.9"})]
    rows += [Row("c", {"seed": 2, **sizes}), Row("d", {"seed": 1, "variant": "other"})]
    rows += [Row("e", sizes), Row("f", sizes)]  # seeds are drawn
    assert groups(*rows) == ["a", "a", "c", "d", "e", "f"]


def test_an_image_in_memory_is_an_anatomy() -> None:
    images = [nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)) for _ in range(2)]
    rows = [row("a", mask=images[0]), row("b", mask=images[1]), row("c", mask=images[0])]
    assert groups(*rows) == ["a", "b", "a"]


def test_a_group_that_is_named_holds_for_all_of_the_anatomy(folder: Path) -> None:
    one, two = folder / "one.nii.gz", folder / "two.nii.gz"
    rows = [row("a", mask=one), row("b", "person", mask=one), row("c", "person", mask=two)]
    assert groups(*rows) == ["person"] * 3
    with pytest.raises(
        InvalidRequest, match=r"row 'c' has group 'q' .* as row 'b' with group 'person';"
    ):
        assign_groups([*rows[:2], row("c", "q", mask=one)])


def test_names_that_are_taken_get_a_number(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "one.nii").write_text("another")
    masks = [folder / "deep" / "one.nii", folder / "one.nii.gz", folder / "two.nii.gz"]
    rows = [row(f"row-{n}", mask=mask) for n, mask in enumerate(masks)]
    assert groups(*rows, row("x", "two")) == ["one", "one-2", "two-2", "two"]


def test_a_plan_says_its_groups_and_more_rows_do_not_change_them(folder: Path) -> None:
    path = folder / "plan.csv"
    path.write_text("name,mask,seed\na,one.nii.gz,1\nb,,7\nc,one.nii.gz,2\n")
    rows = read_plan(path)
    assert [one.group for one in rows] == ["one", "b", "one"]
    assert assign_groups(rows) == rows
    write_plan(rows, path)
    assert path.read_text().splitlines()[0] == "name,group,mask,seed"
    assert read_plan(path) == rows
    more = row("x", mask=folder / "one.nii.gz")
    assert assign_groups([*rows, more])[:3] == rows


CASES = st.dictionaries(st.text("abc", min_size=1, max_size=4), st.sampled_from("123456789"))


@given(CASES)
def test_no_fold_has_a_group_on_both_sides(cases: dict[str, str]) -> None:
    splits = folds(cases)
    assert len(splits) == (5 if len(set(cases.values())) > 1 else 0)
    for split in splits:
        assert sorted(split["train"] + split["val"]) == sorted(cases)
        assert split["train"] and split["val"]
        assert not {cases[name] for name in split["train"]} & {cases[name] for name in split["val"]}


def test_five_groups_and_more_are_validated_on_once_in_even_folds() -> None:
    cases = {f"case-{n:03}": f"mask-{n % 20}" for n in range(100)}
    splits = folds(cases)
    assert Counter(name for split in splits for name in split["val"]) == Counter(list(cases))
    assert [len(split["val"]) for split in splits] == [20] * 5
