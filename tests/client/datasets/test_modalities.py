"""Modalities that are given as class codes of the variant."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from maisi_client import Client, InvalidRequest, Row, make_dataset
from maisi_client._datasets.cases import Common, read_report

from tests.client.datasets.sets import make, masks, plan
from tests.client.timed_server import VARIANT, timed_server


@pytest.mark.usefixtures("faithful")
@pytest.mark.parametrize("layout", ["plain", "bids"])
def test_channels_may_be_codes(client: Client, tmp_path: Path, layout: str) -> None:
    rows, to = plan(tmp_path, 1, 1), tmp_path / "set"
    assert make(client, rows, to, layout=layout, channels=["9", 11]) == ["done"]
    with (to / "cases.csv").open() as file:
        (case,) = csv.DictReader(file)
    assert case["modality"] == "mri_t1,mri_flair"
    assert (to / "README.md").exists() and (to / "croissant.json").exists()
    options: dict[str, Any] = {"layout": layout, "channels": ["mri_t1", "mri_flair"]}
    assert make(client, rows, to, **options) == ["kept"]


@pytest.mark.parametrize(
    ("channels", "sentence"),
    [
        (["9", "77"], r"^channels: '77' is not one of mri_t1 \(9\), mri_t2 \(10\), "),
        (["mri_t1", "9"], r"^channels are \['mri_t1', '9'\]; different modalities"),
    ],
)
def test_other_codes_are_refused(
    client: Client, tmp_path: Path, channels: list[str], sentence: str
) -> None:
    rows = plan(tmp_path, 1, 1)
    with pytest.raises(InvalidRequest, match=sentence):
        next(make_dataset(rows, tmp_path / "set", client, channels=channels))
    assert not (tmp_path / "set").exists()


def test_a_code_of_a_row_is_its_modality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANT, "modalities", {"ct": 1, "mri_t1": 9})
    rows = [
        Row(f"row-{n}", {"mask": mask, "seed": n, "modality": modality})
        for n, (mask, modality) in enumerate(zip(masks(tmp_path, 3), ("1", 1, "ct"), strict=True))
    ]
    to = tmp_path / "Dataset501_Codes"
    with timed_server(lambda size: 0.0) as fake, Client(fake.url) as client:
        assert make(client, rows, to, layout="nnunet") == ["done"] * 3
        other = [*rows, Row("row-3", {"mask": rows[0].arguments["mask"], "modality": "9"})]
        with pytest.raises(InvalidRequest, match="the plan has CT and MR"):
            next(make_dataset(other, tmp_path / "Dataset502_Codes", client, layout="nnunet"))
        unknown = [Row("row", {"size": [4, 4, 4], "modality": "77"})]
        assert make(client, unknown, tmp_path / "unknown") == ["done"]  # the server decides
    assert json.loads((to / "dataset.json").read_text())["channel_names"] == {"0": "CT"}
    report = json.loads((to / "reports" / "row-0.json").read_text())
    assert report["request"]["modality"] == "ct"


@pytest.mark.usefixtures("faithful")
def test_a_report_of_another_modality_is_refused(client: Client, tmp_path: Path) -> None:
    channels = ["mri_t1", "mri_flair"]
    make(client, plan(tmp_path, 1, 1), tmp_path / "set", channels=channels)
    path = next(tmp_path.glob("set/reports/*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "modality": "mri_t2"}))
    with pytest.raises(InvalidRequest, match=r"'.*' is not the report of a case of this version"):
        read_report(path, Common("plain", channels))
