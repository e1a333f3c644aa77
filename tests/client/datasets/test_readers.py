"""Any content of a plan, a table or a database is read, or raises a `MaisiError` of one line."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from maisi_client import Candidate, MaisiError, Row, find_masks, plan_like, read_plan
from maisi_client._arguments import ARGUMENTS
from maisi_client._datasets.cohort import _COLUMNS
from maisi_client._errors import printable
from maisi_client._variant import parse_variant

from export.variant import load

MINI = parse_variant(json.dumps(load("mini").parameter({})))
RANDOM = settings(max_examples=200, deadline=None, database=None)

# What a cell may hold: what is right somewhere, what is nearly so, and anything.
WORDS = st.sampled_from(
    [
        *("", " ", "7", "7.0", "-1", "1e400", "nan", "0,5", "1,2,3", "64.0,64,64", "true", "WAHR"),
        *("mask.nii.gz", "..", "a" * 300, "a/" * 3000, "\0", "[1, 2, 3]", "[1e308, 1e-308, 1]"),
        *("[" * 1000, "T1w", "AXIAL", '"', "mri_t1", "9" * 30, "\ufeff", "é", "\n", ";", "\t"),
    ]
)
CELLS = WORDS | st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | CELLS | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(CELLS, inner, max_size=4),
    max_leaves=8,
)


def parse(name: str, content: bytes, reader: Callable[[Path], Any]) -> Any:
    """Return the result of a reader; None if it raises a `MaisiError` of one line."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "mask.nii.gz").touch()
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            return reader(path)
        except MaisiError as error:
            sentence = str(error)
            assert sentence == printable(sentence, len(sentence)) and len(sentence) < 1000
            return None


def tables(columns: tuple[str, ...]) -> st.SearchStrategy[bytes]:
    """Return valid or nearly valid tables, mostly with these columns."""
    heads = st.lists(st.sampled_from(columns) | st.sampled_from(columns) | CELLS, max_size=5)

    def table_text(
        head: list[str], rows: list[list[str]], separator: str, end: str, start: str
    ) -> Any:
        quoted = '"{}"' if separator == "," else "{}"
        lines = [head, *rows]
        text = end.join(separator.join(map(quoted.format, cells)) for cells in lines)
        return (start + text).encode(errors="surrogatepass")

    rows = st.lists(st.lists(CELLS, max_size=6), max_size=4)
    ends = st.sampled_from(["\n", "\r\n", "\r", "\n\n", ""])
    starts = st.sampled_from(["", "\ufeff", "\n", ",,\r\n"])
    return st.builds(table_text, heads, rows, st.sampled_from(",;\t|"), ends, starts)


def check_rows(rows: Any) -> None:
    for row in rows or ():
        assert isinstance(row, Row) and row.name.isprintable() and row.group
        assert set(row.arguments) <= {*ARGUMENTS, "mask"}
        assert type(row.arguments["seed"]) is int
        for key in ("strength", "guidance"):
            assert math.isfinite(row.arguments.get(key, 0))
        for key in ("mask", "source"):
            assert row.arguments.get(key, Path(__file__)).is_file()


@RANDOM
@given(st.binary(max_size=200) | tables(("name", "group", "license", "mask", *ARGUMENTS)))
def test_plans_that_are_tables(content: bytes) -> None:
    check_rows(parse("plan.csv", content, read_plan))


def dumps(value: Any) -> str:
    return json.dumps(value)  # with NaN and Infinity, as Python writes and reads them


LINES = st.lists(
    JSON.map(dumps)
    | st.dictionaries(st.sampled_from(("name", "group", "mask", *ARGUMENTS)), JSON, max_size=4).map(
        dumps
    )
    | CELLS,
    max_size=4,
).map(lambda lines: "\n".join(lines).encode(errors="surrogatepass"))


@RANDOM
@given(st.binary(max_size=200) | LINES)
def test_plans_of_objects(content: bytes) -> None:
    check_rows(parse("plan.jsonl", content, read_plan))


RIGHT = {
    "pseudo_label_filename": "mask.nii.gz",
    "dim": [64, 64.0, 64],
    "spacing": [1, 1, 1],
    "label_list": [1, 3.0],
    "top_region_index": [0, 1, 0, 0],
    "bottom_region_index": [0, 0, 1, 0],
}
VALUES = JSON | st.lists(st.sampled_from([0, 1, 2.5, -1, 1e308, 10**400, math.inf]), max_size=4)
ENTRY = st.builds(
    lambda key, value: {**RIGHT, key: value}, st.sampled_from([*RIGHT, "other"]), VALUES
)


@RANDOM
@given(
    st.binary(max_size=200)
    | (JSON | st.lists(ENTRY, min_size=1, max_size=3)).map(lambda value: dumps(value).encode()),
    st.sampled_from([None, (64, 64, 64), (64, 64), (), (0, 0, 0)]),
    st.sampled_from([None, 1.0, (1, 1, 1), (1, 1), (), 0, math.nan]),
)
def test_databases_of_masks(content: bytes, size: Any, spacing: Any) -> None:
    rows = parse(
        "db.json",
        content,
        lambda path: find_masks(path, "f", size=size, spacing=spacing, regions=["chest"]),
    )
    for candidate in rows or ():
        assert isinstance(candidate, Candidate)
        assert all(type(side) is int and side > 0 for side in candidate.size)


@RANDOM
@given(st.binary(max_size=200) | tables((*_COLUMNS, *_COLUMNS)), st.data())
def test_tables_of_a_cohort(content: bytes, data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        grids = st.lists(st.sampled_from([1, 1.0, 64, 1e-3, 1e5, 1e308, 1e-308, 10**400]))
        cells = ["T1w", data.draw(st.sampled_from(["AXIAL", "CORONAL", "SAGITTAL"]))]
        cells += [dumps(data.draw(grids.filter(lambda grid: len(grid) < 5))) for _ in range(2)]
        row = ",".join(f'"{cell}"' for cell in cells)
        content = f"{','.join(_COLUMNS)}\n{row}\n".encode()
    cohort = parse("table.csv", content, lambda path: plan_like([path], MINI, 3))
    check_rows(cohort and cohort.rows)


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_right_entry_is_found(start: str) -> None:
    """The strategies above contain readable files, so results are tested, too."""
    entry = {"pseudo_label_filename": "a", "dim": [64.0, 64, 64], "spacing": 1, "label_list": [1.0]}
    content = (start + json.dumps([entry])).encode()
    (candidate,) = parse("db.json", content, lambda path: find_masks(path, "f"))
    assert (candidate.size, candidate.labels) == ((64, 64, 64), frozenset({1}))
