"""Plans: what is read, and the sentence for each way to get one wrong."""

from pathlib import Path

import pytest
from maisi_client import InvalidRequest, read_plan


def write(folder: Path, text: str, name: str = "plan.csv") -> Path:
    (folder / "mask.nii.gz").touch()
    (folder / name).write_text(text)
    return folder / name


def test_a_table_and_objects_say_the_same(tmp_path: Path) -> None:
    table = write(
        tmp_path,
        "name,mask,modality,size,spacing,seed,guidance,augment\n"
        "one,mask.nii.gz,mri_t1,,,7,,true\n"
        ',,mri_t2,"32,40,48",2,,1.5,\n',
    )
    lines = (
        '{"name": "one", "mask": "mask.nii.gz", "modality": "mri_t1", "seed": 7, "augment": true}\n'
        "\n"
        '{"modality": "mri_t2", "size": [32, 40, 48], "spacing": 2, "guidance": 1.5}\n'
    )
    rows = read_plan(table)
    assert rows == read_plan(write(tmp_path, lines, "plan.jsonl"))
    assert [row.name for row in rows] == ["one", "case_0001"]
    assert rows[0].arguments["mask"] == tmp_path / "mask.nii.gz"
    assert rows[1].arguments == {
        "seed": 1,
        "modality": "mri_t2",
        "size": [32, 40, 48],
        "spacing": 2.0,
        "guidance": 1.5,
    }


WRONG = {
    "column": ("name,modalty\na,b\n", "plan.csv, line 2: 'modalty' is no column; variant, mask"),
    "value": ("size\n32;32;32\n", "line 2: size is '32;32;32', which cannot be read"),
    "truth": ("augment\nmaybe\n", "line 2: augment is 'maybe'"),
    "name": ("name\n../a\n", "line 2: name is '../a'; letters, digits"),
    "twice": ("name\na\na\n", "line 3: name 'a' is taken by an earlier row"),
    "mask": ("mask\nnowhere.nii\n", "line 2: mask '.*nowhere.nii' does not exist"),
    "cells": ("name\na,b\n", "line 2: more cells than the head has columns"),
    "empty": ("name\n", "the plan has no row"),
}


@pytest.mark.parametrize(("text", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        read_plan(write(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("plan.jsonl", "{", "line 1: not JSON"),
        ("plan.jsonl", "[1]", "line 1: an object is wanted"),
        ("plan.txt", "", "must end in .csv or .jsonl"),
    ],
)
def test_files_that_are_no_plan(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        read_plan(write(tmp_path, text, name))
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_plan(tmp_path / "nowhere.csv")
