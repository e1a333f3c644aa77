"""Rows with wrong arguments: each is recorded, and the other rows are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from maisi_client import Client, Row
from maisi_client._provenance import json_arguments

from tests.client.datasets.sets import make
from tests.client.timed_server import timed_server

WRONG: list[dict[str, Any]] = [
    {"anatomy": {"liver": "big"}},
    {"anatomy": {"liver": None}},
    {"anatomy": {("liver", 1): 0.5}},
    {"mask": np.zeros((4, 4, 4), np.uint8)},
    {"source": [1, 2]},
    {"size": [None, 4, 4]},
    {"size": np.zeros((2, 2))},
    {"size": [np.zeros(2), {1}, b"4"]},
    {"size": 4, "seed": 1},
    {"steps": object()},
    {"steps": b"1"},
    {"guidance": 1j},
    {"guidance_interval": [np.float32(0.5)]},
    {"spacing": float("nan")},
]


def test_wrong_arguments_end_no_dataset(tmp_path: Path) -> None:
    rows = [Row(f"bad-{n:02}", arguments) for n, arguments in enumerate(WRONG)]
    rows.append(Row("good", {"size": [4, 4, 4], "seed": 1}))
    with timed_server(lambda size: 0.0) as fake, Client(fake.url) as client:
        states = make(client, rows, tmp_path)
    assert states == ["failed"] * len(WRONG) + ["done"]
    for row in rows[:-1]:
        record = json.loads((tmp_path / "failed" / f"{row.name}.json").read_text())
        assert record["type"] in ("InvalidRequest", "MaskError")
        assert record["request"].keys() == row.arguments.keys()


@pytest.mark.parametrize("arguments", WRONG)
def test_any_argument_becomes_json(arguments: dict[str, Any]) -> None:
    text = json.dumps(json_arguments(arguments), allow_nan=False)
    assert json.loads(text).keys() == arguments.keys()


def test_arguments_keep_their_values(tmp_path: Path) -> None:
    arguments = {
        "mask": tmp_path / "mask.nii.gz",
        "anatomy": {"liver": 1, "hepatic tumor": np.float64(0.3)},
        "organs": ("liver", 2),
        "size": np.array([32, 40, 48]),
        "spacing": (np.float64(1.5), 2, 2.0),
        "seed": np.int64(7),
        "augment": True,
        "strength": None,
    }
    assert json_arguments(arguments) == {
        "mask": str(tmp_path / "mask.nii.gz"),
        "anatomy": {"liver": 1.0, "hepatic tumor": 0.3},
        "organs": ["liver", 2],
        "size": [32, 40, 48],
        "spacing": [1.5, 2, 2.0],
        "seed": 7,
        "augment": True,
    }
