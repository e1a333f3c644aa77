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
from maisi_client._grid import RasImage
from maisi_client._mask import load_mask


def groups(*rows: Row) -> list[str]:
    return [row.group for row in assign_groups(rows)]


def row(name: str, group: str = "", **arguments: Any) -> Row:
    return Row(name, {"seed": ord(name[-1]), **arguments}, group=group)


def picture(value: int, shape: tuple[int, ...] = (2, 3, 4)) -> nib.Nifti1Image:
    """Return labels that are `value` in one half."""
    labels = np.zeros(shape, np.uint8)
    labels[1:] = value
    return nib.Nifti1Image(labels, np.diag([2.0, 2, 2, 1]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for value, name in enumerate(("one", "two"), 1):
        nib.save(picture(value), tmp_path / f"{name}.nii.gz")
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


def saved_again(path: Path, kind: str, to: Path) -> Path:
    image = nib.load(path)
    labels = np.asarray(image.dataobj)
    match kind:
        case "uncompressed":
            image = nib.Nifti1Image(labels, image.affine)
        case "floats":
            image = nib.Nifti1Image(labels.astype(np.float32), image.affine)
        case "other axes":
            image = image.as_reoriented(np.array([[1, -1], [0, 1], [2, 1]]))
        case "elsewhere":
            image = nib.Nifti1Image(labels[..., None], image.affine + np.eye(4, k=3))
    nib.save(image, to)
    return to


@pytest.mark.parametrize("kind", ["uncompressed", "floats", "other axes", "elsewhere"])
@pytest.mark.parametrize("role", ["mask", "source"])
def test_a_picture_that_was_saved_again_is_the_same(folder: Path, kind: str, role: str) -> None:
    again = saved_again(folder / "one.nii.gz", kind, folder / "again.nii")
    files = [folder / "one.nii.gz", folder / "two.nii.gz", again]
    assert groups(*(row("abc"[n], **{role: file}) for n, file in enumerate(files))) == [
        *("one", "two", "one")
    ]


def test_voxels_are_read_once_and_only_of_shapes_that_occur_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(mask: Path, vocabulary: str | None) -> RasImage:
        read.append(mask.name)
        return load_mask(mask, vocabulary)

    monkeypatch.setattr("maisi_client._datasets.groups.load_mask", counted)
    nib.save(picture(1, (5, 3, 4)), folder / "large.nii.gz")
    (folder / "broken.nii.gz").write_text("no image")
    masks = [folder / f"{name}.nii.gz" for name in ("one", "two", "large", "broken")]
    rows = [row(f"row-{n}", mask=masks[n % 4]) for n in range(12)]
    grouped = assign_groups(rows)
    assert [one.group for one in grouped[:4]] == ["one", "two", "large", "broken"]
    assert sorted(read) == ["one.nii.gz", "two.nii.gz"]
    assert assign_groups(grouped) == grouped and len(read) == 2  # all rows name their group
    assign_groups([row("a", mask=masks[0]), row("b", mask=masks[0])])
    assert len(read) == 2


def test_a_source_joins_what_masks_part(folder: Path) -> None:
    one, two = folder / "one.nii.gz", folder / "two.nii.gz"
    rows = [row("a", mask=one), row("b", source=two), row("c", mask=one, source=two)]
    assert groups(*rows) == ["one"] * 3


def test_what_the_server_makes_with_one_seed_is_one_anatomy() -> None:
    sizes = {"anatomy": {"liver": 0.5}}
    rows = [Row("a", {"seed": 1, **sizes}), Row("b", {"seed": 1, "anatomy": "liver=0.9"})]
    rows += [Row("c", {"seed": 2, **sizes}), Row("d", {"seed": 1, "variant": "rflow-ct", **sizes})]
    rows += [Row("e", {"seed": 1, "variant": "ddpm-ct", **sizes})]  # has the same mask networks
    rows += [Row("f", sizes), Row("g", sizes)]  # seeds are drawn
    assert groups(*rows) == ["a", "a", "c", "a", "a", "f", "g"]


def test_an_image_in_memory_is_an_anatomy() -> None:
    masks = [picture(1), picture(2), picture(1)]
    rows = [row("a", mask=masks[0]), row("b", mask=masks[1]), row("c", mask=masks[0])]
    assert groups(*rows, row("d", mask=masks[2])) == ["a", "b", "a", "a"]


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
    nib.save(picture(3), folder / "deep" / "one.nii")
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
