"""What a run of a dataset refuses before it makes anything."""

from __future__ import annotations

from pathlib import Path

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
