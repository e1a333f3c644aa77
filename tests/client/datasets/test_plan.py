"""Reading of plans, and the sentence for each kind of fault."""

from __future__ import annotations

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
    "column": (
        "name,modalty\na,b\n",
        "plan.csv, line 2: 'modalty' is not a column; allowed are variant, mask",
    ),
    "value": (
        "size\n32;32;32\n",
        "line 2: size is '32;32;32'; expected: whole numbers, such as 96,112,96",
    ),
    "truth": ("augment\nmaybe\n", "line 2: augment is 'maybe'; expected: true or false"),
    "half": ("steps\n7.5\n", "line 2: steps is '7.5'; expected: a whole number"),
    "power": ("seed\n1E+05\n", r"line 2: seed is '1E\+05'; expected: a whole number"),
    "infinite": ("guidance\ninf\n", "line 2: guidance is 'inf'; expected: a number"),
    "decimal comma": ("name;guidance\na;1,5\n", "line 2: guidance is '1,5'; .* a decimal point"),
    "spacing": ("name;spacing\na;1,5\n", "line 2: spacing is '1,5'; expected: 1 or 3 numbers"),
    "capital": ("Mask\nmask.nii.gz\n", "line 2: 'Mask' is not a column; allowed are variant, mask"),
    "twin": ("seed, seed\n1,2\n", "line 1: the header has column 'seed' twice"),
    "nameless": ("seed,\n1,2\n", "line 2: cell 2 is '2', but the header has no name"),
    "quote": ('name\n"a\nb\n', "the plan '.*' cannot be read: unexpected end of data"),
    "after empty rows": ("seed,steps\n\n,\n  \n1,x\n", "line 5: steps is 'x'"),
    "long": ("mask\n" + "a" * 300, "line 2: mask '.*aaa' does not exist or is not a file"),
    "name": ("name\n../a\n", "line 2: name is '../a'; letters, digits"),
    "group": ("name,group\na,a b\n", "line 2: group is 'a b'; letters, digits"),
    "groups": (
        "name,mask,group\na,mask.nii.gz,p\nb,mask.nii.gz,q\n",
        "plan.csv: row 'b' has group 'q' but shows the same anatomy as row 'a' with group 'p'",
    ),
    "twice": ("name\na\na\n", "line 3: name 'a' is taken by an earlier row"),
    "mask": ("mask\nnowhere.nii\n", "line 2: mask '.*nowhere.nii' does not exist"),
    "cells": ("name\na,b\n", "line 2: the row has more cells than the header has columns"),
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
        ("plan.jsonl", "[1]", "line 1: an object is expected"),
        ("plan.jsonl", '{}\n{"seed": 1, "seed": 2}', "line 2: not JSON: key 'seed' occurs 2"),
        ("plan.jsonl", '{"mask": 5}', "line 1: mask is 5; expected: a path"),
        ("plan.jsonl", '{"seed": 7.5}', "line 1: seed is 7.5; expected: a whole number"),
        ("plan.jsonl", '{"seed": true}', "line 1: seed is True; expected: a whole number"),
        ("plan.jsonl", '{"size": 1e999}', "line 1: size is inf; expected: whole numbers"),
        ("plan.jsonl", '{"organs": {}}', "line 1: organs is {}; expected: a text"),
        ("plan.txt", "", "must end in .csv or .jsonl"),
    ],
)
def test_files_that_are_no_plan(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        read_plan(write(tmp_path, text, name))
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_plan(tmp_path / "nowhere.csv")


ROW = {"name": "one", "mask": "mask.nii.gz", "seed": 7, "size": [64, 32, 96], "guidance": 1.5}
SAVED = {
    "a byte order mark": '\ufeffname,mask,seed,size,guidance\r\none,mask.nii.gz,7,"64,32,96",1.5',
    "a mark and quotes": '\ufeff"name","mask","seed","size","guidance"\n'
    '"one","mask.nii.gz","7","64,32,96","1.5"\n',
    "empty rows": "\n,,\r\nname,mask,seed,size,guidance\r\n,,,,\r\n  \r\n"
    'one,mask.nii.gz,7,"64,32,96",1.5\r\n,,,,\r\n,\t ,,,\r\n',
    "whole floats": 'name,mask,seed,size,guidance\none,mask.nii.gz,7.0,"64.0, 32.,96",1.5\n',
    "semicolons": "name;mask;seed;size;guidance\none;mask.nii.gz;7;64,32,96;1.5\n",
    "tabs": "name\tmask\tseed\tsize\tguidance\none\tmask.nii.gz\t7\t64,32,96\t1.5\n",
    "spaces": 'name , mask, seed,size,guidance \none, mask.nii.gz ,7 ,"64, 32, 96", 1.5\n',
    "empty columns": 'name,mask,,seed,size,guidance,,\none,mask.nii.gz,,7,"64,32,96",1.5,,,\n',
    "old ends": 'name,mask,seed,size,guidance\rone,mask.nii.gz,7,"64,32,96",1.5\r',
}


@pytest.mark.parametrize("text", SAVED.values(), ids=SAVED.keys())
@pytest.mark.parametrize("name", ["plan.csv", "PLAN.CSV"])
def test_a_table_as_a_spreadsheet_saves_it(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "mask.nii.gz").touch()
    (tmp_path / name).write_bytes(text.encode())
    (row,) = read_plan(tmp_path / name)
    expected = {**ROW, "mask": tmp_path / "mask.nii.gz"}
    assert {"name": row.name, **row.arguments} == expected
    assert type(row.arguments["seed"]) is int


@pytest.mark.parametrize("start", ["\ufeff", "", "\ufeff\r\n"])
def test_objects_as_editors_save_them(tmp_path: Path, start: str) -> None:
    line = '{"seed": 7.0, "size": [64.0, 32, 96], "organs": ["liver", 3], "augment": 1}'
    (tmp_path / "plan.jsonl").write_bytes(f"{start}{line}\r\n \r\n{{}}".encode())
    one, two = read_plan(tmp_path / "plan.jsonl")
    expected = {"seed": 7, "size": [64, 32, 96], "organs": ["liver", 3], "augment": True}
    assert (one.arguments, two.arguments) == (expected, {"seed": 1})
    assert type(one.arguments["seed"]) is type(one.arguments["size"][0]) is int


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    for name, content in (("a.csv", "mask\nmüller.nii\n"), ("a.jsonl", '{"mask": "ü"}')):
        for encoding in ("latin-1", "utf-16"):
            (tmp_path / name).write_bytes(content.encode(encoding))
            with pytest.raises(InvalidRequest, match="cannot be read: 'utf-8' codec"):
                read_plan(tmp_path / name)
