"""What a run of a dataset refuses before it makes anything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from maisi_client import Client, InvalidRequest, Row, make_dataset, write_plan

from tests.client.command import NOBODY

TWICE = [Row("a", {"seed": 1}), Row("b", {"seed": 2}), Row("a", {"seed": 3})]
SENTENCE = r"^rows 0 and 2 have the name 'a'; each row needs its own name$"


def test_rows_have_different_names(tmp_path: Path) -> None:
    with Client(NOBODY) as client, pytest.raises(InvalidRequest, match=SENTENCE):
        next(make_dataset(TWICE, tmp_path / "set", client))
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("name", ["plan.csv", "plan.jsonl"])
def test_a_plan_has_different_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match=SENTENCE):
        write_plan(TWICE, tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"shard": shard}, rf"shard is {re.escape(repr(shard))}; \(I, N\) with whole numbers, I ")
        for shard in ((0, 0), (2, 2), (-1, 2), (0, -1), (0.0, 1), (0,), (0, 1, 2), 1, "0/1", None)
    ]
    + [
        ({name: value}, f"{name} is {re.escape(repr(value))}; a whole number of 1 or more is")
        for name in ("attempts", "jobs")
        for value in (0, -1, 1.5, "2")
    ],
)
def test_options_are_checked_before_a_row_is_made(
    tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    rows = [Row("a", {"size": [4, 4, 4]})]
    with Client(NOBODY) as client, pytest.raises(InvalidRequest, match=f"^{sentence}"):
        next(make_dataset(rows, tmp_path / "set", client, **options))
    assert not (tmp_path / "set").exists()
